"""Models: whole networks that load pretrained weights, tokenizers, and the generation of sequences."""

from minigrad.models.bert import Bert, BertConfig, BertForMaskedLM
from minigrad.models.decoding import Decoding, Generative
from minigrad.models.generation import generate, stream
from minigrad.models.gpt import GPT, GPTConfig
from minigrad.models.language_model import LanguageModel
from minigrad.models.llama import Llama, LlamaConfig, RotaryScaling
from minigrad.models.sampling import Sampler
from minigrad.models.seq2seq import Seq2Seq, Seq2SeqConfig
from minigrad.models.t5 import T5, load_t5, t5_config
from minigrad.models.tokenizers import ByteTokenizer, CharacterTokenizer

__all__ = [
    "GPT",
    "T5",
    "Bert",
    "BertConfig",
    "BertForMaskedLM",
    "ByteTokenizer",
    "CharacterTokenizer",
    "Decoding",
    "GPTConfig",
    "Generative",
    "LanguageModel",
    "Llama",
    "LlamaConfig",
    "RotaryScaling",
    "Sampler",
    "Seq2Seq",
    "Seq2SeqConfig",
    "generate",
    "load_t5",
    "stream",
    "t5_config",
]

"""Models: whole networks that load pretrained weights, tokenizers, and the generation of sequences."""

from minigrad.models.decoding import Decoding, Generative
from minigrad.models.generation import generate, stream
from minigrad.models.gpt import GPT, GPTConfig
from minigrad.models.language_model import LanguageModel
from minigrad.models.llama import Llama, LlamaConfig, RotaryScaling
from minigrad.models.sampling import Sampler
from minigrad.models.tokenizers import ByteTokenizer, CharacterTokenizer

__all__ = [
    "GPT",
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
    "generate",
    "stream",
]

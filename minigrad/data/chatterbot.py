"""The English part of ChatterBot's language training corpus: short conversations on twenty subjects.

By Gunther Cox and its contributors, BSD licence. It is fetched, not distributed with minigrad.
"""

from collections.abc import Iterable

from minigrad.data.download import DataError
from minigrad.data.packages import package_files

__all__ = ["load_chatterbot", "parse_chatterbot"]

PACKAGE = "chatterbot-corpus==1.3.3"
FOLDER = "chatterbot_corpus/data/english/"
FILES = {
    "ai": "620a65787a56641db4a03e1419a7578e813967218cf6721e3ea4ef90844916aa",
    "botprofile": "1a694c5288f3f8f87d027d2f98dae71d02efa88e28853a6e5d27e6dbce907294",
    "coding": "1726a8900a82ee32dad559809564f9ae97df9c52f42a8f1fcde84b1d54b1d260",
    "computers": "a222c5a432efe4289e6c5edf1c3d99fd26c48df99db0ff893d1d5ab569f5b750",
    "conversations": "1cf105b5802f377b2dc145f741f7df85629c9ca27e450538165286a75b5e3416",
    "emotion": "510a018938c1880dd0f67e1ae458e26878c91a570daef5a84fb83713c89f0989",
    "food": "68eab2497721d03044d520b70c27d8a0d8ba8e505b3265fb3a1ff3e1a64c7124",
    "gossip": "d6f1b1613ed70821fc1c427bdd00395f58b77ff57d76fbe4ab8cb2038cf15c9b",
    "greetings": "0dd7eb8dcee8e2a38cd1a137bcfbd7f3eb732cddfa1bd396fac5a24b063a4d55",
    "health": "eb88edc5302d688ca096374c7e3f5b9d7cd821f053a17d80204c4acdc20ea4f5",
    "history": "0ff4beeb6ef9b641dc12e1039a149c6a03eb8f2e183702fad2b0997fcc1d63e3",
    "humor": "d2aa03a63f0e8e054589f642788afbc41b8c76f5d734c50901a9a63b359ea06b",
    "literature": "9361ff1478273d811259ca307a1e6be23a5e08e776a5bc5d9524fb13deb886f1",
    "money": "2911d9766625ff5c2feb3d784f2951b2ebd5e9658547efce7568d0282c49274b",
    "movies": "075ca9d91a527206c635c88bf0353323826a25a6f2057be1bc71888af389f842",
    "politics": "c436d5efedea6f715a8a811423a8edf396097771eb11e43b1f0a43a6aee7c2f0",
    "psychology": "5047c211d35f715af4fbc3398f111135e99d34afcd0905a661c40bdeb1413a58",
    "science": "3c259799bba36c67a1601fc264ec01ab051e9e63950734ce1ef644e022081fe7",
    "sports": "8d1bcc632cad4058e3b8490daa15dcd7c2a51790a7b9140b252600b794590403",
    "tech_support": "8a87cdf32579c8efdd9c5f3ef166ae9fb76dcf271b958f5e2265b9246b430655",
    "trivia": "3a9de77e6d82803d1ea3eba48cf6543c884908f4c4f50501fed69f88112994dc",
}


def load_chatterbot(categories: Iterable[str] | None = None) -> dict[str, list[list[str]]]:
    """Load the conversations: 2,025 in 21 categories, many of them more than once.

    They come from the cache, an installed ``chatterbot-corpus`` package, or its wheel, fetched by pip; each file is
    checked against its SHA-256 sum and kept in the cache folder (0.2 MB). PyYAML reads them: ``minigrad[demo]``.

    Parameters
    ----------
    categories : iterable of str, optional
        Some of them, such as ``"science"``; all by default.

    Returns
    -------
    dict of str to list of list of str
        The conversations of each category, in the order of the files: what is said, turn by turn.

    Raises
    ------
    DataError
        Every source failed: the text says for each what went wrong.
    KeyError
        If there is no such category.

    Examples
    --------
    >>> from minigrad.data.chatterbot import load_chatterbot
    >>> load_chatterbot(["trivia"])["trivia"][0]  # doctest: +SKIP
    ['Who was the 37th President of the United States?', 'Richard Nixon']
    """
    chosen = {name: f"{FOLDER}{name}.yml" for name in (FILES if categories is None else categories)}
    places = package_files(PACKAGE, {file: FILES[name] for name, file in chosen.items()})
    found = {}
    for name, file in chosen.items():
        with open(places[file], encoding="utf-8") as opened:
            found[name] = parse_chatterbot(opened.read())
    return found


def parse_chatterbot(text: str) -> list[list[str]]:
    r"""Read the corpus's format, YAML: ``conversations`` is a list of lists of texts.

    What is a text in place of a list is left out: trivia has a question whose answer is indented too far.

    Raises
    ------
    DataError
        If it is something else.

    Examples
    --------
    >>> from minigrad.data.chatterbot import parse_chatterbot
    >>> parse_chatterbot("conversations:\n- - Tea?\n  - Yes, please.\n")  # doctest: +SKIP
    [['Tea?', 'Yes, please.']]
    """
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataError(f"a file of conversations is no YAML: {error}") from error
    talks = found.get("conversations") if isinstance(found, dict) else None
    if not isinstance(talks, list):
        raise DataError("a file of conversations needs a list of them, by the name 'conversations'")
    talks = [talk for talk in talks if not isinstance(talk, str)]
    if not all(isinstance(talk, list) and talk and all(isinstance(turn, str) for turn in talk) for talk in talks):
        raise DataError("each of the conversations needs to be a list of texts")
    return talks

"""Facts that an answer states, found by patterns of English."""

from __future__ import annotations

import re

from minigrad.knowledge.language.linking import fold, words

__all__ = ["SELF", "stated_facts"]

SELF = "you"  # the name by which those who ask call the one who answers
LONGEST_HEAD, LONGEST_TAIL = 4, 16  # words
_ARTICLE = r"(?:(?:an?|the) )?"
# what is asked, and the relation it names; None for the words themselves
_ASKED = [
    (rf"(?:what|who)(?: is|'s) the (?P<relation>\w+(?: \w+)? of) {_ARTICLE}(?P<head>.+)", None),
    (rf"(?:do you know )?(?:what|who)(?: is| are| was| were|'s) {_ARTICLE}(?P<head>.+)", "is"),
    (rf"(?:tell me about|define) {_ARTICLE}(?P<head>.+)", "is"),
    (rf"who wrote {_ARTICLE}(?P<head>.+)", "written by"),
    (rf"who (?P<relation>invented|discovered|painted|founded|directed|created) {_ARTICLE}(?P<head>.+)", "{} by"),
    (rf"what does {_ARTICLE}(?P<head>.+) stand for", "stands for"),
    (rf"how (?P<relation>far|big|old|tall|heavy|large|long|hot|cold) is {_ARTICLE}(?P<head>.+)", None),
]
_SAID = re.compile(rf"{_ARTICLE}(?P<head>[^,.;:!?]+?) (?P<relation>is|are|was|were) (?P<tail>(?:an?|the|one of) .+)")
_OWN = re.compile(
    r"(?P<relation>i'm|i am|i (?:do not |don't |can |can't |cannot |never |always |just |only |would |wouldn't )?"
    r"(?:have|like|love|want|think|know|come|live|do|enjoy|eat|sleep|need|prefer|read|feel|work|be|see|help|was|can't|"
    r"can)) (?P<tail>.+)"
)
_PERSONAL = re.compile(r"(?:i|you|we)(?:'\w+)?\b|(?:my|your|our)\b")  # it answers, but states nothing of the head
_PATTERNS = [(re.compile(pattern), relation) for pattern, relation in _ASKED]
_SENTENCES = re.compile(r"(?<=\w\w[.!?])\s+")  # two letters before the end: not after an initial
# what these words stand for is known from the context alone
_VAGUE = frozenset(
    re.findall(
        r"\w+",
        """
        i me my mine you your yours he him his she her hers it its we us our they them their this that these those there
        here who what which one someone something anything everything nothing people name favorite up new
        """,
    )
)


def stated_facts(question: str, answer: str) -> list[tuple[str, str, str]]:
    """Triples (head, relation, tail) that an answer states, in folded words.

    There are three kinds of patterns. The question names head and relation, and the answer is the tail, unless it asks
    back or is about those who talk: "who wrote Frankenstein", "what is chemistry", "what is the capital of Peru". The
    answer says it alone: "Vineland is a novel". The one who answers speaks of itself, which gives the head `SELF`: "I'm
    a bot", "I don't have an age". Heads of more than four words, or with a pronoun, give no fact; a tail ends with its
    sentence, or after 16 words.

    Parameters
    ----------
    question, answer : str
        What one said, and what the other replied.

    Returns
    -------
    list of tuple of str
        Each once.

    Examples
    --------
    >>> from minigrad.knowledge.language.stated_facts import stated_facts
    >>> stated_facts("Who wrote Frankenstein?", "Mary Shelley.")
    [('frankenstein', 'written by', 'mary shelley')]
    >>> stated_facts("Do you eat?", "I don't have a mouth. I am a program, you know!")
    [('you', "i don't have", 'a mouth'), ('you', 'i am', 'a program, you know')]
    """
    asked, said = _plain(question).rstrip("?!. "), [_plain(part) for part in _SENTENCES.split(answer)]
    found: list[tuple[str, str, str]] = []
    for pattern, relation in _PATTERNS:
        match = pattern.fullmatch(asked)
        if match is not None and not _PERSONAL.match(said[0]) and not said[0].endswith("?"):
            head, named = match["head"], (relation or "{}").format(match.groupdict().get("relation"))
            start = rf"{_ARTICLE}(?:{re.escape(head)}|it|this|that) (?:is|are|was|were) (?:{re.escape(named)} )?"
            found.append((head, named, re.sub(f"^{start}", "", said[0])))
            break
    for sentence in said:
        if sentence.endswith("?"):
            continue
        own, other = _OWN.fullmatch(sentence), _SAID.fullmatch(sentence)
        if own is not None:
            found.append((SELF, own["relation"], own["tail"]))
        elif other is not None and other["head"] != SELF:  # in an answer it is the one who asked
            found.append((other["head"], other["relation"], other["tail"]))
    short = [(head, relation, " ".join(tail.split()[:LONGEST_TAIL]).rstrip(".!, ")) for head, relation, tail in found]
    return list(dict.fromkeys(fact for fact in short if fact[2] and _is_name(fact[0])))


def _plain(text: str) -> str:
    return fold(" ".join(text.split()))


def _is_name(head: str) -> bool:
    parts = [word for word, _, _ in words(head)]
    return head == SELF or (0 < len(parts) <= LONGEST_HEAD and _VAGUE.isdisjoint(parts))

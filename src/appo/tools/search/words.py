"""The words of a text, in any script, as a BM25 index compares them.

- Without case, without the accents and vowel points of alphabets (Latin, Greek, Cyrillic, Hebrew, Arabic), in one form
  of Unicode. The signs of other scripts (Hindi, Bengali, Tamil, ..) are letters of their words, and kept.
- English stop words, `'s`, and the commonest endings and questions of Japanese and Chinese are left out.
- Chinese, Japanese, Korean, Thai, Lao, Khmer and Burmese do not show where a word ends, so what stands between two
  spaces or signs is cut into its characters, with their vowels. A page has every character and every two neighbours
  as words. A query has the neighbours, as pages that share no word with it rarely hold them, and a character only
  where it is alone or, between others, the only Chinese one. Two neighbours without a vowel take a third.

Left out on purpose: stemming, and dictionaries that know the words of scripts without spaces; each would need another
package.
"""

import itertools
import re
import unicodedata

import regex
from bm25s.stopwords import STOPWORDS_EN

_JAPANESE = (
    "です ます でし まし ませ せん した して する すか てい いる いま ある あり りま こと から まで これ それ 何"
)
_CHINESE = "什么 是什 甚麼 是甚 多少 是多 哪里 哪裡 在哪 怎么 怎麼 我们 我們 他们 他們 这个 這個 一个 一個"
_STOP_WORDS = frozenset((*STOPWORDS_EN, *_JAPANESE.split(), *_CHINESE.split()))
_SIMPLE_WORD = re.compile(r"[^\W_]+")
_OTHER_SCRIPT = re.compile(r"[\u0300-\u1cff\u2c00-\U0010ffff]")  # than Latin; all that follows is slower

# Accents, but for Japanese voicing marks, which are letters; and what is not seen, but for a space without a width.
_LEFT_OUT = regex.compile(
    r"(?V1)[[\p{M}&&[\p{Inherited}\p{Latin}\p{Greek}\p{Cyrillic}\p{Hebrew}\p{Arabic}\p{Syriac}]--[\u3099\u309a]]"
    r"[\p{Cf}--\u200b]\u0640]"
)
_SCRIPTS = r"\p{Han}\p{Hiragana}\p{Katakana}\u30fc\p{Bopomofo}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_SPACELESS = rf"[[{_SCRIPTS}]&&[\p{{L}}\p{{M}}\p{{Nl}}]]"
_WORD = regex.compile(
    rf"(?V1)(?P<run>{_SPACELESS}+)|[[\p{{L}}\p{{N}}]--{_SPACELESS}][[\p{{L}}\p{{N}}\p{{M}}]--{_SPACELESS}]*"
)
# A letter with the vowels that are written before and behind it in Thai and Lao, and the letters below it in Khmer and
# Burmese.
_CHARACTER = regex.compile(
    r"[\u0e40-\u0e44\u0ec0-\u0ec4]?\p{L}(?:[\u1039\u17d2]\p{L}|\p{M})*[\u0e30\u0e32\u0e45\u0eb0\u0eb2]*|."
)
_HAN = regex.compile(r"\p{Han}")
# Two letters without a vowel, which sentences of other words often hold as well.
_TOO_SHORT = re.compile(r"[\u0e01-\u0edf\u1000-\u109f\u1780-\u17d3]{2}")


def words(text: str, query: bool = False) -> list[str]:
    """The words of a page, or of a query, in order."""
    text = _plain(text)
    if _OTHER_SCRIPT.search(text) is None:
        found = _SIMPLE_WORD.findall(text)
    else:
        found = []
        for match in _WORD.finditer(text):
            found += [match[0]] if match["run"] is None else _parts(_CHARACTER.findall(match[0]), query)
    return [word for word in found if word not in _STOP_WORDS]


def _plain(text: str) -> str:
    if not text.isascii():
        text = _LEFT_OUT.sub("", unicodedata.normalize("NFKD", text.replace("’", "'")))
        text = unicodedata.normalize("NFKC", text)
    return re.sub(r"'s\b", "", text.casefold())


def _parts(characters: list[str], query: bool) -> list[str]:
    """The words of what is written without spaces."""
    pairs = [first + second for first, second in itertools.pairwise(characters)]
    longer = [pair + third for pair, third in zip(pairs, characters[2:], strict=False) if _TOO_SHORT.fullmatch(pair)]
    if not query:
        return [*characters, *pairs, *longer]
    if not pairs:
        return characters
    han = [False, *(_HAN.match(character) is not None for character in characters), False]
    alone = [
        character
        for place, character in enumerate(characters, 1)
        if han[place - 1 : place + 2] == [False, True, False]
    ]
    return [*alone, *longer, *(pair for pair in pairs if not _TOO_SHORT.fullmatch(pair))] or pairs

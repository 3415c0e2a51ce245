"""Names the language of a text: by its script where that is enough, else by py3langid's model (BSD, in its package).

Code is set aside first. Short texts, and texts of which the model is unsure, have no name: nobody should lose a row for
them. Knows nothing of rows.
"""

import functools
import re
from collections.abc import Callable, Sequence

from tunewright.dataprep.code_spans import ANY_TOKEN, set_aside

LEAST_LETTERS = 15
"""Letters; a Chinese character counts as three."""
LEAST_PROBABILITY = 0.7
_LOOKED_AT = 600
_HAN = re.compile("[\u3400-\u9fff]")
_KANA = re.compile("[\u3041-\u30ff]")
_HANGUL = re.compile("[\uac00-\ud7af\u1100-\u11ff]")
_LETTERS = re.compile(r"[^\W\d_]")
_CODE = re.compile(r"https?://\S+|[\w.]+@[\w.]+|^[ \t]*[^\n]*[;{}]$|\S*[_(){}=<>/\\]\S*", re.MULTILINE)
_SIGN = re.compile(r"[@;_(){}=<>/\\]")
"""One of these stands in all that `_CODE` finds; without them it takes time that grows with the square of the text."""


def identify(texts: Sequence[str]) -> list[str]:
    """Return each text's ISO 639-1 code, or an empty string where it cannot be said."""
    return [_identify(text) for text in texts]


def _identify(text: str) -> str:
    around = ANY_TOKEN.sub(" ", set_aside(text[: 4 * _LOOKED_AT])[0])
    around = (_CODE.sub(" ", around) if _SIGN.search(around) else around)[:_LOOKED_AT]
    letters, han = len(_LETTERS.findall(around)), len(_HAN.findall(around))
    if letters + 2 * han < LEAST_LETTERS:
        return ""
    kana, hangul = len(_KANA.findall(around)), len(_HANGUL.findall(around))
    if 2 * (han + kana + hangul) >= letters:
        return "ja" if 8 * kana > han + kana else "ko" if 2 * hangul > han else "zh"
    name, probability = _classifier()(around)
    return name if probability >= LEAST_PROBABILITY else ""


@functools.cache
def _classifier() -> Callable[[str], tuple[str, float]]:
    from py3langid.langid import (  # type: ignore[import-untyped]  # noqa: PLC0415 - its model is loaded only where used
        MODEL_FILE,
        LanguageIdentifier,
    )

    classify: Callable[[str], tuple[str, float]] = LanguageIdentifier.from_model_file(
        MODEL_FILE, norm_probs=True
    ).classify
    return classify

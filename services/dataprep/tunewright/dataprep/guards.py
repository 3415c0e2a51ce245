"""The guards' flags: which care a text may need. `scanning.py` sets them.

A flag promises nothing but this: where it is not set, the rules that it stands for would change or find nothing. What
to do where one is set is not known here.
"""

LINE_ENDING = 1
CONTROL = 2
INVISIBLE = 4
MARKUP = 8
COMPOSABLE = 16
"""Has characters that may have another Unicode form (NFC)."""
MOJIBAKE = 32
SPACE = 64
"""Spaces before a line break, or spaces or blank lines around the text."""
AT_SIGN = 128
"""Something like an e-mail address or a login in a URL."""
DIGITS = 256
"""Nine digits with nothing but spaces, dots, dashes and parentheses between them, or eight after a plus, or seven after
a word or a colon: phones, cards, identity numbers."""
IBAN = 512
"""Two capitals, two digits, and eleven more of either."""
TOKEN = 1024
"""Sixteen characters in one piece, letters and digits mixed, or the head of a key file."""
REFUSAL = 2048
BOILERPLATE = 4096
GARBLED = 8192
"""Has U+FFFD or a string known from broken conversions."""
NON_ASCII = 16384
EVERYTHING = 32767

CLEANING = LINE_ENDING | CONTROL | INVISIBLE | MARKUP | COMPOSABLE | MOJIBAKE | SPACE
PII = AT_SIGN | DIGITS | IBAN | TOKEN

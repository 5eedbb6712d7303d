"""Texts on which tokenizer implementations are known to part.

Spaces at edges and in runs, line ends, digits, contractions, marks that combine under NFC, right-to-left text, emoji
sequences, private use and control characters; and special tokens whole, broken and among text.
"""

from __future__ import annotations

from collections.abc import Sequence

AWKWARD_TEXTS: tuple[str, ...] = (
    "",
    " ",
    "  ",
    "\n",
    " \n",
    "\n ",
    "\r\n\r\n",
    "\t\tx",
    "a",
    " a",
    "a ",
    "  a  b   c    ",
    "\xa0\u2003x\u3000y",
    "Hello, world!",
    "don't DON'T we'll I'M you'Re",
    "1 12 123 1234 12345678901",
    "x=1;y=22;z=333",
    "3.14e-10, -7, +5",
    "def f(a, b):\n    return a  +  b\n\n\n\tpass\n",
    '{"a": [1, 2.5, null], "b": "\\u00e9"}',
    "<|im_start|",
    "<<>>|",
    "caf\xe9 cafe\u0301 \u1e9b\u0323 \u212b \ufb01",
    "e\u0301\u0323\u0302",
    "\u0301leading mark",
    "\u1100\u1161\u11a8 \uac01",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d\u0924\u0947",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002",
    "\u3053\u3093\u306b\u3061\u306f\u30ab\u30bf\u30ab\u30ca",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u270c\U0001f3fd",
    "\ufeffbom \u200b\u200e\u2028\u2029",
    "\x00\x01\x1f\x7f\x85",
    "\ue000\uf8ff\U0010ffff\ufffd",
    "\u2581under \u2581\u2581",
    "\u0120bpe \u010a",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "=====\n=====",
    "http://a.b/c?d=e&f=%20#g",
    "C:\\path\\file.txt",
    "A\u030a\u0327 ##@@!!??",
    "\u1e0a\u0323x \u0344 \u0958 \u2126",
    "\u01c5\u1fbc\u02b0\xaa\u2160\xbd\u0663\u09ea",
    "snake_case camelCase SCREAMING kebab-case",
    "-" * 70,
    " " * 70,
    "\n" * 30,
)

# Special tokens tried one by one; some tokenizers have a thousand reserved ones that differ only in a number.
_SPECIALS_TRIED = 64


def awkward_texts(specials: Sequence[str]) -> list[str]:
    """The texts an implementation is checked on, given the contents of its special tokens."""
    tried = specials[:_SPECIALS_TRIED]
    texts = list(AWKWARD_TEXTS)
    for special in tried:
        texts += (special, f"a{special} b", f" {special}\n{special}", special[:-1], f"e{special}\u0301")
    return [*texts, "".join(AWKWARD_TEXTS), "".join(tried)]

"""Where a person goes after signing in or out: pure. Only a path of this site; anything else is the home page."""

import re

#: longest path that is carried through a sign-in, in characters: the cookie that carries it may hold 4096 bytes
LONGEST = 2000

# Printable ASCII without the backslash: browsers read `\` as `/`, and drop tabs and line ends before they look.
_PATH = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*")
# A dot segment, plain or encoded, moves what stands before it: /x/..//host begins with two slashes once resolved.
_DOTS = re.compile(r"/(\.|%2e){1,2}(?=/|$)", re.IGNORECASE)


def local_path(text: object, *, otherwise: str = "/") -> str:
    """`text` where it is a same-origin path with an optional query, `otherwise` in every other case.

    Paths of sign-in and sign-out are not returned to: they would send the person round in a circle.
    """
    if not isinstance(text, str) or len(text) > LONGEST or not _PATH.fullmatch(text):
        return otherwise
    path = re.split(r"[?#]", text, maxsplit=1)[0]
    if _DOTS.search(path) or re.match(r"/sign(in|out)(/|$)", path):
        return otherwise
    return text

"""Secrets, left out of everything that is recorded.

The rule, in the order in which it is applied:

1. What is kept under a secret name is left out. Names are read word by word (``apiKey``,
   ``API_KEY`` and ``api-key`` are the words "api" and "key"). Always secret: password, passwd, pwd,
   passphrase, secret, credential, dsn, authorization, and pairs such as api key, access key,
   private key, session id, connection string. Secret unless the value is a number: auth, cookie,
   and token, except for tokens of language (``pad_token``, ``max_tokens``, ``token_type``).
   ``None``, ``True`` and ``False`` are kept: they are no secret.
2. In any text, what looks like a known kind of key is left out: ``sk-...``, ``ghp_...``,
   ``hf_...``, ``AKIA...``, ``xoxb-...``, JSON web tokens, PEM blocks, ``Bearer ...``, and long
   random words of small and capital letters and digits. Hexadecimal words stay: they are commits
   and hashes.
3. In any text, the values of assignments to secret names (``password = "..."``, ``TOKEN=...``), of
   options (``--token ...``) and of strings after a secret name in quotes are left out.
4. URLs lose their user and password, and the values of query parameters with secret names.
5. The home folder is written ``~``.

No rule finds every secret: a password in an argument called ``x`` stays.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LEFT_OUT = "(left out)"
# No line of a record is longer: what searches it for names takes time.
MOST_OF_LINE = 4000

ALWAYS = frozenset(
    "password passwords passwd pwd passphrase secret secrets credential credentials dsn"
    " authorization apikey apikeys accesskey privatekey secretkey sessionid bearer".split()
)
UNLESS_NUMBER = frozenset("auth oauth cookie cookies".split())
PAIRS = frozenset(
    tuple(pair.split())
    for pair in (
        "api key,api keys,access key,private key,session id,session key,connection string,conn str,"
        "conn string,encryption key,signing key,ssh key,account key,license key,master key,"
        "storage key,deploy key,wandb key,openai key,hf key,comet key,aws key,azure key,"
        "anthropic key,db pass,user pass,smtp pass,database pass,proxy pass"
    ).split(",")
)
# Words before "token" that make it a piece of text.
LANGUAGE = frozenset(
    "pad eos bos unk cls sep mask class special start end stop image audio video vision first last"
    " next prev previous per each extra new added sos eot decoder encoder sentence word query"
    " prompt input output target sample dist distillation register global separator blank"
    " newline space begin beginning target source".split()
)
# Words before "tokens" that make them keys.
OF_SERVICES = frozenset("access auth api refresh bearer hf github gitlab slack secret".split())
# Names that are secret in the query of a URL only.
IN_URLS = frozenset("sig signature key code".split())

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
KEYS = re.compile(
    r"""
    -----BEGIN[ \w]*PRIVATE\ KEY-----.*?(?:-----END[ \w]*-----|\Z)
    | (?<![A-Za-z0-9])(?:
        sk-(?=[\w-]{0,100}\d)[\w-]{16,}
      | (?:sk|rk|pk)_(?:live|test)_\w{10,}
      | gh[pousr]_[A-Za-z0-9]{16,}
      | github_pat_\w{20,}
      | glpat-[\w-]{16,}
      | hf_[A-Za-z0-9]{16,}
      | (?:AKIA|ASIA)[A-Z0-9]{12,}
      | xox[a-z]-[\w-]{10,}
      | eyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*)?
      | AIza[\w-]{30,}
      | ya29\.[\w-]{20,}
      | (?:npm_|pypi-|nvapi-|dop_v1_|r8_)[\w-]{24,}
      | SG\.[\w-]{16,}\.[\w-]{16,}
      | (?:[Bb]earer|BEARER)\s+[\w.~+/=-]{12,}
      | [Bb]asic\s+(?=[\w+/=]{0,100}\d)[\w+/=]{16,}
    )
    """,
    re.VERBOSE | re.DOTALL,
)
RANDOM = re.compile(r"(?<![\w+/])[A-Za-z0-9+]{40,}={0,2}(?![\w+/])")
USER = re.compile(
    r"(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]{0,30}://)"
    r"(?:[^\s/?#\"']{0,500}@|[^\s/?#@\"':]{1,200}:[^\s@\"']{0,300}@)"
)
HEADER = re.compile(r"(authorization[\"']?\s{0,9}[:=]\s{0,9}[\"']?)\w+\s+[^\s\"',]+", re.IGNORECASE)
PARAMETER = re.compile(r"([?&;])([\w.%-]+)=([^&\s\"'#]*)")
# A name, perhaps its type, a sign, and a string or one plain word to the end of the clause.
ASSIGNMENT = re.compile(
    r"""(?<![\w.-])(?P<name>[\w.-]{1,200})(?P<sign>["'\]]{0,3}"""
    r"""(?:\s{0,9}:\s{0,9}[\w.\[\]|]{1,60}(?=\s{0,9}=))?"""
    r"""\s{0,40}(?::=|=>|[=!]?=|:)\s{0,40})"""
    r"""(?P<value>[bfru]{0,2}"(?:[^"\\]|\\.)*"|[bfru]{0,2}'(?:[^'\\]|\\.)*'"""
    r"""|[^\s"'()\[\]{},;&]{3,}(?=$|[\s"',;&)}]))""",
    re.IGNORECASE,
)
OPTION = re.compile(
    r"(?<!\S)(?P<name>--?\w[\w.-]{0,200})(?P<gap>\s{1,40})(?P<value>\"[^\"]*\"|'[^']*'|[^\s\"'-]\S*)"
)
NAMED = re.compile(r"""(["'])(-{0,2}\w[\w.-]{0,200})\1""")
STRING = re.compile(r'"(?:[^"\\]|\\.)+"|\'(?:[^\'\\]|\\.)+\'')
# What stands where a value could: types, and words that say that there is none.
NO_VALUES = frozenset("str none true false null int bool float bytes any optional string".split())


def redacted(value: Any) -> Any:
    """Return plain data of any depth without its secrets; mappings, lists and texts."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return {
            without_secrets(str(key)): LEFT_OUT if _hides(str(key), item) else redacted(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redacted(item) for item in value]
    return value


def command(arguments: Sequence[str]) -> list[str]:
    """Return a command line without the values of its secret options."""
    found: list[str] = []
    hides = False
    for argument in arguments:
        name, sign, value = argument.partition("=")
        if hides and not argument.startswith("-"):
            found.append(LEFT_OUT)
        elif sign and _hides(name, value):
            found.append(f"{name}={LEFT_OUT}")
        else:
            found.append(without_secrets(argument))
        hides = not sign and argument.startswith("-") and is_secret(argument)
    return found


def is_secret(name: str) -> bool:
    """Tell whether what has this name is a secret, unless it is a number."""
    return _always(words := _words(name)) or _mostly(words)


def without_secrets(text: str) -> str:
    """Return a text, of one line or many, without its secrets."""
    text = KEYS.sub(LEFT_OUT, text)
    text = RANDOM.sub(_random, text)
    text = USER.sub(r"\1", text)
    text = PARAMETER.sub(_parameter, text)
    text = "\n".join(map(_line, text.split("\n")))
    home = _home()
    return home.sub("~", text) if home else text


def _line(line: str) -> str:
    """Return a line without the values of what has a secret name."""
    if len(line) > MOST_OF_LINE:
        line = f"{line[:MOST_OF_LINE]} ... (cut)"
    line = HEADER.sub(rf"\1{LEFT_OUT}", _after_names(line))
    line = ASSIGNMENT.sub(_assignment, line)
    return OPTION.sub(_option, line)


def _hides(name: str, value: Any) -> bool:
    if value is None or isinstance(value, bool) or value == "":
        return False
    words = _words(name)
    return _always(words) or (_mostly(words) and not isinstance(value, (int, float)))


@functools.lru_cache(maxsize=4096)
def _words(name: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in WORD.findall(name[-200:]))


def _always(words: tuple[str, ...]) -> bool:
    pairs = itertools.pairwise(words)
    return not ALWAYS.isdisjoint(words) or any(pair in PAIRS for pair in pairs)


def _mostly(words: tuple[str, ...]) -> bool:
    if not UNLESS_NUMBER.isdisjoint(words):
        return True
    before = words[-2] if len(words) > 1 else ""
    if words[-1:] == ("token",):
        return before not in LANGUAGE
    return words[-1:] == ("tokens",) and before in OF_SERVICES


def _random(match: re.Match[str]) -> str:
    word = match.group()
    digits, small = sum(map(str.isdigit, word)), any(map(str.islower, word))
    changes = sum(a.isupper() != b.isupper() for a, b in itertools.pairwise(word))
    return LEFT_OUT if digits > 2 and small and changes > len(word) / 4 else word


def _parameter(match: re.Match[str]) -> str:
    sign, name, value = match.groups()
    secret = is_secret(name) or not IN_URLS.isdisjoint(_words(name))
    return f"{sign}{name}={LEFT_OUT}" if secret and value else match.group()


def _assignment(match: re.Match[str]) -> str:
    name, sign, value = match.group("name", "sign", "value")
    bare = value.strip("\"'")
    if not bare or bare.lower() in NO_VALUES or bare == LEFT_OUT or sign.endswith("://"):
        return match.group()
    if "==" in sign or "!=" in sign:
        # Only a string that it is compared with gives it away.
        return f"{name}{sign}{LEFT_OUT}" if bare != value and is_secret(name) else match.group()
    number = bare.replace(".", "", 1).isdigit() and bare == value
    words = _words(name)
    if _always(words) or (_mostly(words) and not number) or (words == ("key",) and _keyed(bare)):
        return f"{name}{sign}{LEFT_OUT}"
    return match.group()


def _keyed(value: str) -> bool:
    """Tell whether a value named "key" is one to a service, and not to a dictionary."""
    solid = re.fullmatch(r"[\w+/=-]{20,}", value) is not None
    return solid and any(c.isdigit() for c in value) and any(c.isalpha() for c in value)


def _option(match: re.Match[str]) -> str:
    name, gap, value = match.group("name", "gap", "value")
    hides = is_secret(name) and value != LEFT_OUT
    return f"{name}{gap}{LEFT_OUT}" if hides else match.group()


def _after_names(line: str) -> str:
    """Return a line without the strings that follow a secret name in quotes."""
    for match in NAMED.finditer(line):
        if is_secret(match.group(2)):
            end = match.end()
            return line[:end] + STRING.sub(_emptied, line[end:])
    return line


def _emptied(match: re.Match[str]) -> str:
    quote = match.group()[0]
    return f"{quote}{LEFT_OUT}{quote}"


@functools.cache
def _pattern(home: str) -> re.Pattern[str] | None:
    return re.compile(rf"(?<![\w/]){re.escape(home)}(?![\w.-])") if len(home) > 1 else None


def _home() -> re.Pattern[str] | None:
    try:
        return _pattern(str(Path.home()))
    except RuntimeError:
        return None

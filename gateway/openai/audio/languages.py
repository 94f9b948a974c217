"""The languages that Whisper knows: OpenAI's answers name them in English, models by their codes. Pure."""

_NAMES = """
af afrikaans|am amharic|ar arabic|as assamese|az azerbaijani|ba bashkir|be belarusian|bg bulgarian|bn bengali|bo tibetan
br breton|bs bosnian|ca catalan|cs czech|cy welsh|da danish|de german|el greek|en english|es spanish|et estonian
eu basque|fa persian|fi finnish|fo faroese|fr french|gl galician|gu gujarati|ha hausa|haw hawaiian|he hebrew|hi hindi
hr croatian|ht haitian creole|hu hungarian|hy armenian|id indonesian|is icelandic|it italian|ja japanese|jw javanese
ka georgian|kk kazakh|km khmer|kn kannada|ko korean|la latin|lb luxembourgish|ln lingala|lo lao|lt lithuanian|lv latvian
mg malagasy|mi maori|mk macedonian|ml malayalam|mn mongolian|mr marathi|ms malay|mt maltese|my myanmar|ne nepali
nl dutch|nn nynorsk|no norwegian|oc occitan|pa punjabi|pl polish|ps pashto|pt portuguese|ro romanian|ru russian
sa sanskrit|sd sindhi|si sinhala|sk slovak|sl slovenian|sn shona|so somali|sq albanian|sr serbian|su sundanese
sv swedish|sw swahili|ta tamil|te telugu|tg tajik|th thai|tk turkmen|tl tagalog|tr turkish|tt tatar
uk ukrainian|ur urdu|uz uzbek|vi vietnamese|yi yiddish|yo yoruba|yue cantonese|zh chinese
"""
# Whisper's other names of some, and the code of javanese that everybody else has.
_ALIASES = """
burmese my|castilian es|flemish nl|haitian ht|jv jw|letzeburgesch lb|mandarin zh|moldavian ro|moldovan ro|panjabi pa
pushto ps|sinhalese si|valencian ca
"""


def _pairs(table: str) -> list[list[str]]:
    return [entry.split(" ", 1) for line in table.split("\n") if line for entry in line.split("|")]


NAMES: dict[str, str] = dict(_pairs(_NAMES))
_CODES = {code: code for code in NAMES} | {name: code for code, name in NAMES.items()} | dict(_pairs(_ALIASES))


def code_of(language: str) -> str:
    """A code, with a region or without, or the English name of a language, as a code; what is neither stays as it
    is."""
    lower = language.strip().lower()
    return _CODES.get(lower) or _CODES.get(lower.partition("-")[0], lower)


def name_of(code: str | None) -> str:
    """What OpenAI's answers call it. None: nobody has found out."""
    return "unknown" if code is None else NAMES.get(code, code)

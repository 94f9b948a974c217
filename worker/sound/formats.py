"""The format of a sound file by its first bytes, whatever its name says."""


def format_of(head: bytes) -> str | None:
    """wav, flac, ogg or mp3, None for anything else. head: the first 12 bytes behind the tags that some files have, or
    all that there are."""
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":
        return "ogg"
    # The sync word of MPEG audio; layer 0 is AAC's.
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06:
        return "mp3"
    return None

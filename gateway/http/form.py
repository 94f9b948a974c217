"""A multipart form with one file: its text fields, and the file piece by piece. Knows no file system.

Starlette reads forms with the same parser, but puts files where their limit, hash and removal are not the gateway's.

What clients say of the type and the name of the file is nothing to the gateway.
"""

from collections.abc import Callable, Mapping

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from broker.wire.failure import Code, Failure, FailureError, invalid, one_line
from gateway.core.failure import root_of

MAX_FIELDS_BYTES = 2**20  # of all text fields together
_MAX_PARTS = 64
_DISPOSITION = b"content-disposition"
_MULTIPART = b"multipart/form-data"

Fields = dict[str, list[str]]  # of each name its values


class UploadForm:
    """content_type: of the request. file_field: the name of the file's field. unheeded: roots of names (that of
    `languages[]` is `languages`) whose values are dropped as they come. check: raises FailureError for a mistake in the
    fields that stand before the file; others may follow it."""

    def __init__(
        self,
        content_type: str,
        file_field: str,
        unheeded: frozenset[str] = frozenset(),
        check: Callable[[Fields], None] = lambda _fields: None,
    ) -> None:
        self.fields: Fields = {}
        self.files = 0
        self.file_field = file_field
        self._unheeded = unheeded
        self._check = check
        self._is_unheeded = False  # the part that comes
        self._is_complete = False
        self._parts = 0
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._name: str | None = None  # of the part that comes, None while its headers do
        self._text = bytearray()
        self._text_bytes = 0
        self._piece = bytearray()
        try:
            self._parser = MultipartParser(
                self._boundary(content_type),
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise self._invalid(one_line(error)) from None

    def feed(self, data: bytes) -> bytes:
        """The bytes of the file that these bytes of the body hold. Raises FailureError."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise self._invalid(one_line(error)) from None
        piece, self._piece = self._piece, bytearray()
        return bytes(piece)

    def end(self) -> None:
        """The body has ended. Raises FailureError if the form has not."""
        if not self._is_complete:
            raise self._invalid("the body ends before its last boundary")

    def _boundary(self, content_type: str) -> bytes:
        kind, options = parse_options_header(content_type)
        if kind != _MULTIPART:
            sent = f"{kind.decode('latin-1')!r:.80}" if kind else "a body without a Content-Type"
            raise self._invalid(f"not {sent}")
        if not options.get(b"boundary"):
            raise self._invalid("the Content-Type names no boundary")
        return options[b"boundary"]

    def _invalid(self, why: str) -> FailureError:
        return invalid(f"{self.file_field} must be sent in a body of multipart/form-data: {why}", self.file_field)

    # ---- callbacks of the parser -----------------------------------------------------------------------------------

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise self._invalid(f"it has more than {_MAX_PARTS} parts")
        self._name, self._disposition = None, b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if bytes(self._header).lower() == _DISPOSITION:
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition.decode("latin-1"))
        self._name = self._decoded(options.get(b"name", b""), None)
        if not self._name:
            raise self._invalid("a part has no name")
        self._is_unheeded = root_of(self._name) in self._unheeded
        if self._name == self.file_field:
            self.files += 1
            if self.files > 1:
                raise invalid(f"{self.file_field} is there twice: one request takes one file", self.file_field)
            self._check(self.fields)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == self.file_field:
            self._piece += data[start:end]
            return
        if self._is_unheeded:
            return
        self._text_bytes += end - start
        if self._text_bytes > MAX_FIELDS_BYTES:
            message = f"the fields beside {self.file_field} have more than {MAX_FIELDS_BYTES} bytes"
            raise FailureError(Failure(Code.REQUEST_TOO_LARGE, message, self._name))
        self._text += data[start:end]

    def _on_part_end(self) -> None:
        if self._name is not None and self._name != self.file_field:
            self.fields.setdefault(self._name, []).append(self._decoded(bytes(self._text), self._name))
        self._text.clear()

    def _on_end(self) -> None:
        self._is_complete = True

    def _decoded(self, text: bytes, param: str | None) -> str:
        try:
            return text.decode()
        except UnicodeDecodeError:
            raise invalid(f"{param or 'the name of a field'} is not UTF-8", param) from None


def values_of(fields: Mapping[str, list[str]], lists: frozenset[str]) -> dict[str, str | list[str]]:
    """The fields as a model reads them: one value each, or a list for `lists`, whose names may end with `[]`. Empty
    ones are left out: they mean their default. Raises FailureError for one that is there twice."""
    values: dict[str, str | list[str]] = {}
    for name, given in fields.items():
        plain = name.removesuffix("[]")
        if plain in lists:
            earlier = values.get(plain, [])
            assert isinstance(earlier, list)  # as this branch makes it
            values[plain] = [*earlier, *filter(None, given)]
        elif len(given) > 1:
            raise invalid(f"{name} is there {len(given)} times", name)
        else:
            values[name] = given[0]
    return {name: value for name, value in values.items() if value}

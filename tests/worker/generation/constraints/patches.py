"""A grammar of patches, with everything that such grammars use, and patches that follow it or do not."""

# Names of alternatives, patterns without an end, optional parts, imports: as agents send it.
GRAMMAR = """
start: head section+ tail
head: "*** Begin Patch" LF
tail: "*** End Patch" LF?

section: creation | removal | edit
creation: "*** Add File: " path LF added+
removal: "*** Delete File: " path LF
edit: "*** Update File: " path LF move? changes?

path: /(.+)/
added: "+" /(.*)/ LF -> line

move: "*** Move to: " path LF
changes: (place | changed)+ final?
place: ("@@" | "@@ " /(.+)/) LF
changed: ("+" | "-" | " ") /(.*)/ LF
final: "*** End of File" LF

%import common.LF
"""

PATCH = (
    "*** Begin Patch\n*** Update File: src/a b.py\n*** Move to: src/c.py\n@@ def f():\n"
    '-    print("x\\n")\t\n+    print(\'é \U0001f600\')\n \n*** End of File\n*** Add File: d\n+{"k": [1]}\n'
    "*** Delete File: e\n*** End Patch"
)

NO_PATCHES = (
    PATCH + "!",
    PATCH.replace("*** Begin Patch\n", ""),
    PATCH.replace("@@ def", "@ def"),
    PATCH.replace("+{", "{"),
    PATCH.replace("*** Add File: d", "*** Add File: "),
)

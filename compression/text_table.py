"""Aligned columns of plain text: what a terminal, a pipe and an e-mail all show alike."""

from __future__ import annotations

from collections.abc import Collection, Sequence

GAP = "  "


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> str:
    """Lines of equal columns: words, `left`, to the left; the others, which are figures, to the right."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        GAP.join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def bytes_text(count: int) -> str:
    """Bytes as a person reads them: 512 B, 77.3 kB, 1.2 MB (powers of ten)."""
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"

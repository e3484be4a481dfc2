"""Ratios as a bar chart in SVG: one row a measurement, a bar for lodge and one for each peer."""
from xml.sax.saxutils import escape

BAR, GAP, LEFT, WIDTH = 16, 14, 330, 520
COLOURS = {"lodge": "#2a6f97", "lodge bzImage": "#61a5c2", "lodge raw": "#61a5c2", "qemu": "#c9793b", "qemu bzImage": "#c9793b",
           "qemu pvh": "#e0a458", "kvmtool": "#7a8b69"}


def draw(path, title, rows):
    """rows: (label, {peer: ratio to lodge}); lodge is 1. Shorter is better in every row."""
    y, body = 60, []
    longest = max([1.0] + [ratio for _, peers in rows for ratio in peers.values()])
    scale = WIDTH / min(longest, 6.0)
    for label, peers in rows:
        bars = {"lodge": 1.0, **peers}
        body.append(f'<text x="{LEFT - 10}" y="{y + BAR * len(bars) / 2 + 5}" text-anchor="end">{escape(label)}</text>')
        for name, ratio in bars.items():
            width = min(ratio, 6.0) * scale
            body.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 2}" fill="{COLOURS.get(name, "#888")}"/>'
                        f'<text x="{LEFT + width + 6:.1f}" y="{y + BAR - 4}" class="s">{escape(name)} {ratio:.2f}</text>')
            y += BAR
        y += GAP
    height, total = y + 20, LEFT + WIDTH + 140
    with open(path, "w", encoding="utf-8") as out:
        out.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{height}" '
                  f'viewBox="0 0 {total} {height}" font-family="sans-serif" font-size="13">\n'
                  '<style>.s{font-size:11px;fill:#444}</style>\n'
                  f'<rect width="{total}" height="{height}" fill="#fff"/>\n'
                  f'<text x="20" y="30" font-size="17" font-weight="bold">{escape(title)}</text>\n'
                  + "\n".join(body) + "\n</svg>\n")

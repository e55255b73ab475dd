"""The ladder as a page: own inline SVG, no external asset, light and dark, message text on selection."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lab.ladder import Ladder
from lab.ladder_steps import MediaEnd, Step, arrow_label

LANE = 196
"""Distance between two participants, pixels."""
ROW = 30
"""Height of a step, pixels."""
_LEFT = 120
_TOP = 58
_PROTECTION_CLASS = {"SRTP": "srtp", "RTP": "rtp", "opaque": "opaque"}

STYLE = """
:root{color-scheme:light dark;--bg:#fdfdfc;--fg:#1c1e21;--dim:#6b7075;--line:#d4d6d9;--card:#fff;--edge:#e2e4e7;
--sip:#24527a;--rpc:#7a4f9a;--http:#0f766e;--bad:#b3261e;--note:#fff4d6;--noteline:#d9b44a;--srtp:#1f7a3d;--srtpbg:#d6f2de;
--rtp:#9a6400;--rtpbg:#fdebc8;--opaque:#1565a0;--opaquebg:#d5eafb;--head:#eef1f4}
@media (prefers-color-scheme:dark){:root{--bg:#15171a;--fg:#e6e8ea;--dim:#9aa0a6;--line:#3a3f45;--card:#1c1f23;
--edge:#30353b;--sip:#8dbdeb;--rpc:#c9a3e6;--http:#5eead4;--bad:#ff8a80;--note:#3a3218;--noteline:#a88a35;--srtp:#7fdb9b;
--srtpbg:#173a24;--rtp:#f0bf62;--rtpbg:#40300f;--opaque:#86c5f4;--opaquebg:#12324a;--head:#262a2f}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
main{max-width:1900px;margin:0 auto;padding:24px}
h1{font-size:1.5rem;margin:0 0 4px}h2{font-size:1.15rem;margin:32px 0 6px}p{margin:4px 0}
.dim{color:var(--dim)}code,pre{font:12.5px/1.45 ui-monospace,monospace}
table{border-collapse:collapse;margin:12px 0;width:100%}
th,td{text-align:left;padding:6px 12px 6px 0;border-bottom:1px solid var(--edge);vertical-align:top}
th{font-weight:600;color:var(--dim);font-size:.85rem}
.ok{color:var(--srtp);font-weight:600}.no{color:var(--bad);font-weight:600}.warn{color:var(--rtp);font-weight:600}
.ladder{overflow-x:auto;border:1px solid var(--edge);border-radius:10px;background:var(--card);margin:10px 0}
svg{display:block}svg text{font:12px system-ui,sans-serif;fill:var(--fg)}
.lane{stroke:var(--line)}.head{fill:var(--head);stroke:var(--edge)}.head+text{font-weight:600}
.time{fill:var(--dim)!important;font-size:11px!important;font-variant-numeric:tabular-nums}
.step{cursor:pointer}.step:focus{outline:none}.step:hover .hit,.step:focus .hit{fill:var(--head)}.hit{fill:transparent}
.sip line,.sip path{stroke:var(--sip);stroke-width:1.6}.sip path{fill:var(--sip)}
.sip.final line{stroke-width:2}.sip.error line,.sip.error path{stroke:var(--bad)}.sip.error path{fill:var(--bad)}
.sip.error text.label{fill:var(--bad)}.sip.again line{stroke-dasharray:2 4}
.rpc line,.rpc path{stroke:var(--rpc);stroke-width:1.3}.rpc line{stroke-dasharray:6 4}.rpc path{fill:var(--rpc)}
.rpc text.label{fill:var(--rpc)}.rpc.error text.label{fill:var(--bad)}
.http line,.http path{stroke:var(--http);stroke-width:1.4}.http line{stroke-dasharray:2 3}.http path{fill:var(--http)}
.http text.label{fill:var(--http)}.http.error text.label{fill:var(--bad)}.mikey rect.box{stroke:var(--http)}
.note rect.box{fill:var(--note);stroke:var(--noteline)}
.media rect.band{rx:7}.srtp rect.band{fill:var(--srtpbg);stroke:var(--srtp)}.srtp text.label{fill:var(--srtp)}
.rtp rect.band{fill:var(--rtpbg);stroke:var(--rtp)}.rtp text.label{fill:var(--rtp)}
.opaque rect.band{fill:var(--opaquebg);stroke:var(--opaque)}.opaque text.label{fill:var(--opaque)}
.lost{stroke:var(--bad);stroke-width:2}
.legend span{display:inline-block;padding:1px 10px;border-radius:7px;margin-right:8px;font-size:.85rem}
.legend .srtp{background:var(--srtpbg);color:var(--srtp)}.legend .rtp{background:var(--rtpbg);color:var(--rtp)}
.legend .opaque{background:var(--opaquebg);color:var(--opaque)}
.detail{display:none;margin:0;padding:12px 16px;border-top:1px solid var(--edge);overflow-x:auto;white-space:pre-wrap}
.detail.shown{display:block}
"""
SCRIPT = """
for(const ladder of document.querySelectorAll('.ladder')){
  const panel=ladder.querySelector('.detail');
  const show=step=>{panel.textContent=step.dataset.text;panel.classList.add('shown')};
  for(const step of ladder.querySelectorAll('.step')){
    step.addEventListener('click',()=>show(step));
    step.addEventListener('keydown',event=>{if(event.key==='Enter'){show(step)}});
  }
}
"""
LEGEND = (
    '<p class="legend"><span class="srtp">SRTP</span><span class="rtp">RTP, unprotected</span>'
    '<span class="opaque">relayed unopened</span><span class="dim">solid: SIP, dashed: service call, '
    "note: key decision; select a row for its text (keys are never in it)</span></p>"
)


def render_svg(call: Ladder) -> str:
    """Return the ladder as one ``<svg>`` element."""
    places = {name: _LEFT + LANE // 2 + index * LANE for index, name in enumerate(call.participants)}
    width = _width(places)
    height = _TOP + ROW * len(call.steps) + 20
    label = escape(f"Call flow of {call.call_id}", quote=True)
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{label}">']
    for name, x in places.items():
        parts.append(f'<line class="lane" x1="{x}" y1="{_TOP - 16}" x2="{x}" y2="{height - 8}"/>')
        parts.append(f'<rect class="head" x="{x - LANE // 2 + 8}" y="12" width="{LANE - 16}" height="28" rx="6"/>')
        parts.append(f'<text x="{x}" y="31" text-anchor="middle">{escape(name)}</text>')
    for index, step in enumerate(call.steps):
        parts.append(_step(step, places, _TOP + index * ROW, width))
    parts.append("</svg>")
    return "\n".join(parts)


def _width(places: dict[str, int]) -> int:
    return _LEFT + LANE * len(places) + 10


def _step(step: Step, places: dict[str, int], top: int, width: int) -> str:
    kinds = {"sip": "sip", "rpc": "rpc", "http": "http", "decision": "note", "mikey": "note mikey", "media": "media"}
    classes = ["step", kinds[step.kind]]
    if step.kind == "media":
        classes.append(_PROTECTION_CLASS.get(step.protection, "plain"))
    if step.kind in ("sip", "http") and step.outcome:
        classes.append("error" if step.outcome >= "4" and step.outcome not in ("401", "407") else "final")
    if step.kind == "rpc" and step.outcome != "OK":
        classes.append("error")
    if step.retransmission:
        classes.append("again")
    text = _describe(step)
    first_line = text.partition("\n")[0]
    draw = {"sip": _arrow, "rpc": _arrow, "http": _arrow, "decision": _note, "mikey": _note, "media": _band}[step.kind]
    return (
        f'<g class="{" ".join(classes)}" tabindex="0" data-text="{escape(text, quote=True)}">'
        f"<title>{escape(first_line)}</title>"
        f'<rect class="hit" x="0" y="{top}" width="{width}" height="{ROW}"/>'
        f'<text class="time" x="10" y="{top + 20}">{step.at_ms:.1f} ms</text>{draw(step, places, top)}</g>'
    )


def _arrow(step: Step, places: dict[str, int], top: int) -> str:
    x1, x2, y = places[step.source], places[step.target], top + ROW - 8
    label = escape(arrow_label(step) + (" (again)" if step.retransmission else ""))
    if x1 == x2:
        return f'<circle cx="{x1}" cy="{y}" r="3"/><text class="label" x="{x1 + 8}" y="{y + 4}">{label}</text>'
    way = 1 if x2 > x1 else -1
    tip = f'<path d="M{x2} {y}l{-8 * way} -4v8z"/>'
    if step.unseen:
        x2 -= 26 * way
        tip = f'<path class="lost" d="M{x2 - 5} {y - 5}l10 10m0 -10l-10 10"/>'
    return (
        f'<line x1="{x1}" y1="{y}" x2="{x2}" y2="{y}"/>{tip}'
        f'<text class="label" x="{(x1 + x2) // 2}" y="{y - 5}" text-anchor="middle">{label}</text>'
    )


def _note(step: Step, places: dict[str, int], top: int) -> str:
    label = step.label + (f": {step.detail}" if step.detail else "")
    half = min(len(label) * 3.3 + 12, 420)
    x = max(min(places[step.source], _width(places) - half - 10), half + 10)
    return (
        f'<rect class="box" x="{x - half:.0f}" y="{top + 3}" width="{2 * half:.0f}" height="{ROW - 6}" rx="5"/>'
        f'<text class="label" x="{x:.0f}" y="{top + 20}" text-anchor="middle">{escape(label)}</text>'
    )


def _band(step: Step, places: dict[str, int], top: int) -> str:
    x1, x2 = sorted((places[step.source], places[step.target]))
    if x1 == x2:
        x1, x2 = x1 - LANE // 2 + 8, x2 + LANE // 2 - 8
    return (
        f'<rect class="band" x="{x1}" y="{top + 4}" width="{x2 - x1}" height="{ROW - 8}"/>'
        f'<text class="label" x="{(x1 + x2) // 2}" y="{top + 20}" text-anchor="middle">{escape(step.label)}</text>'
    )


def _describe(step: Step) -> str:
    if step.kind == "sip":
        way = f"{step.source} -> {step.target}, {step.interface} {step.transport}"
        fate = ", retransmission" if step.retransmission else ""
        fate += ", not seen to arrive" if step.unseen else ""
        return f"{way}, {step.at_ms:.3f} ms{fate}\n\n{step.text or step.detail}"
    if step.kind == "rpc":
        took = step.until_ms - step.at_ms
        way = f"{step.source} -> {step.target}: {step.interface} {step.label}"
        return f"{way}, {step.outcome}, {took:.2f} ms {step.detail}"
    if step.kind == "http":
        fate = ", not seen to arrive" if step.unseen else ""
        way = f"{step.source} -> {step.target}, {step.interface} {step.transport} {step.detail}"
        return f"{way}, {step.at_ms:.3f} ms{fate}\n\n{step.label}"
    if step.kind in ("decision", "mikey"):
        return f"{step.source}: {step.label}\n{step.detail}"
    rows = "\n".join(_end(end) for end in step.ends)
    return f"{step.source} - {step.target}: {step.label}, {step.detail}\n{rows}"


def _end(end: MediaEnd) -> str:
    drops = "".join(f", {cause} {count}" for cause, count in end.drops if count)
    return (
        f"{end.node} ({end.side}): {end.protection} {end.keying} {end.suite} in {end.packets_in} out {end.packets_out},"
        f" authentication failures {end.auth_failures}, replays {end.replays}{drops}; {end.local} - {end.remote}"
    )


def render_call(call: Ladder, *, heading: str = "", text: str = "") -> str:
    """Return the section of one call: heading and what happened where they are given, ladder."""
    title = f"<h2>{escape(heading)}</h2>" if heading else ""
    said = f"<p>{escape(text)}</p>" if text else ""
    return (
        f"<section>{title}{said}"
        f'<p class="dim"><code>{escape(call.call_id)}</code> trace <code>{escape(call.trace_id)}</code></p>'
        f'<div class="ladder">{render_svg(call)}<pre class="detail"></pre></div></section>'
    )


def render_page(calls: Sequence[Ladder], *, title: str, body: str = "", sections: Sequence[str] = ()) -> str:
    """Return a whole page. ``body`` and ``sections`` are HTML; without ``sections`` the calls are drawn plainly."""
    drawn = "".join(sections) if sections else "".join(render_call(call) for call in calls)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main><h1>{escape(title)}</h1>{body}{LEGEND}{drawn}</main><script>{SCRIPT}</script></body></html>\n"
    )

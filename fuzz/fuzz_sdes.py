"""Fuzz target: reading and judging SDES lines, masking them, and reading the security agreement and digest headers."""

import sys

import atheris

with atheris.instrument_imports(include=["keying", "signalling.secagree", "signalling.aka"]):
    from keying.sdes import SdesError, SdesPolicy, answer_for, evaluate_offer, parse_crypto, redact, verify_answer
    from signalling.aka.digest import DigestChallenge, DigestCredentials, DigestError
    from signalling.secagree import SecurityHeaderError, format_entries, parse_security_header

POLICY = SdesPolicy(
    allow_null_protection=True, allow_key_derivation_rate=True, allow_separate_fec=True, max_keys_per_line=16
)


def one_input(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    lines = text.split("\n")
    evaluation = evaluate_offer(lines, POLICY)
    assert len(evaluation.acceptable) + len(evaluation.refused) == len(lines)
    for line in evaluation.acceptable:
        assert parse_crypto(line.encode()) == line
        answer = answer_for(line)
        assert verify_answer([line], [answer.encode()], POLICY) == answer
        key = line.encode().split("inline:")[1].split("|")[0].split(" ")[0].split(";")[0]
        assert key not in redact(f"a=crypto:{line.encode()}")
    for line in lines:
        try:
            parse_crypto(line)
        except SdesError:
            continue
    assert redact(redact(data)) == redact(data) or b"<redacted>" in redact(data)
    for reader in (DigestChallenge.parse, DigestCredentials.parse):
        try:
            reader(text).format()
        except DigestError:
            continue
    try:
        entries = parse_security_header(text)
    except SecurityHeaderError:
        return
    assert parse_security_header(format_entries(entries)) == entries


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()

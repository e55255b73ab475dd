"""The people of these tests."""

from keying.mikey.identity import Identity


def uri(text):
    return Identity.uri(text)


ALICE = uri("sip:alice@ims.test")
BOB = uri("sip:bob@ims.test")
CAROL = uri("sip:carol@ims.test")
ERIN = uri("sip:erin@partner.test")

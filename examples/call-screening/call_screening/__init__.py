"""call-screening: an application server that counts calls and refuses some (ISC; offers ncall-screening)."""

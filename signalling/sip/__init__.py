"""SIP: messages, transactions, dialogs (without I/O), and the Twisted stack and proxy core above them (RFC 3261)."""

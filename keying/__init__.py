"""Key management: SDES and the type that keys live in. No sockets, no clocks, no logging."""

/* Interface of packet_loop.c, between the lines below also read by cffi (media/relay/compiled_build.py). */
#ifndef PACKET_LOOP_H
#define PACKET_LOOP_H

#include <stddef.h>
#include <stdint.h>

/* cffi begins */
#define RELAY_SLOTS 16
#define RELAY_STATUSES 32
#define MAX_DATAGRAM 9216
#define TRAILER_LIMIT 148
#define ADDRESS_OCTETS 18
#define RELAY_KNOWN 2

#define FLOW 0
#define STRANGERS 1

/* Causes of a drop, in the order of media.relay.board.CAUSES. */
#define DROP_AUTH_FAILED 0
#define DROP_REPLAYED 1
#define DROP_MKI 2
#define DROP_KEY_EXPIRED 3
#define DROP_TOO_SHORT 4
#define DROP_OVERSIZE 5
#define DROP_NOT_RTP 6
#define DROP_STUN 7
#define DROP_DTLS 8
#define DROP_WRONG_SOURCE 9
#define DROP_RATE_LIMITED 10
#define DROP_SEND_BLOCKED 11
#define DROP_UNREACHABLE 12
#define DROP_SSRC_LIMIT 13
#define RELAY_CAUSES 14

/* What is counted of a side, by one thread; it may lie in memory that other processes read at any time.
 *
 * `packets` came in here and were sent on, `packets_out` left here. Only grows, but for `active`, when a packet that came
 * in was last sent on. What is in drops[] is media, then it is among `refused`, or RTCP.
 */
typedef struct {
    uint64_t packets, octets_in;
    uint64_t refused, rtcp_refused;
    uint64_t packets_out, octets_out;
    uint64_t drops[RELAY_CAUSES];
    double active;
} relay_counts;

typedef struct {
    uint32_t ssrc;
    uint16_t highest, first;
    uint64_t received;
    double transit, jitter;
    uint32_t cycles;
    int has_transit;
} relay_source;

/* One socket of a stream: of kind FLOW what a side's peer sends, of kind STRANGERS what anybody else sends to its port.
 *
 * It changes only while the loop is held, but for what `counts` and, of the other side, `far` point to. They and `sources`
 * belong to who made the flow. Packets of `known` senders are no strangers'. `left` is how many packets its keys may
 * still carry here; `routed` whether the thread has looked up its way out. There are thousands of them: what only one
 * kind needs shares its place with what only the other does, and `kind` is set once.
 */
typedef struct {
    relay_counts *counts;
    double looks_at;
    float looks;
    uint32_t handed_back;
    unsigned char kind, open, noted, queued;
    unsigned char opaque, muxed, trailer, rtcp_trailer;
    unsigned char routed, receiving_mki, sending_mki, source_count, source_limit, known_count;
    union {
        struct { /* FLOW */
            int out;
            float rate;
            relay_counts *far;
            void *receiving, *sending;
            uint64_t left;
            relay_source *sources;
        };
        unsigned char known[RELAY_KNOWN][ADDRESS_OCTETS]; /* STRANGERS */
    };
} relay_flow;

/* The flows of one side's port, and the source that most peers have alone. */
typedef struct {
    relay_flow peer, strangers;
    relay_source first;
} relay_side;

typedef struct relay_loop relay_loop;

relay_loop *loop_new(void *protect, void *unprotect, void *protect_mki, void *unprotect_mki, const int *cause_of);
void loop_free(relay_loop *loop);
int loop_start(relay_loop *loop, int cpu, int priority);
void loop_stop(relay_loop *loop);
int loop_descriptor(const relay_loop *loop);
int loop_notice(const relay_loop *loop);
void loop_hold(relay_loop *loop);
void loop_release(relay_loop *loop);
void loop_set_time(relay_loop *loop, double now);
int loop_watch(relay_loop *loop, int descriptor, relay_flow *flow);
int loop_reopen(relay_loop *loop, int descriptor);
int loop_run(relay_loop *loop);
int loop_waiting(relay_loop *loop);
int loop_noted(relay_loop *loop, int *into, int room);
int loop_handed_back(const relay_loop *loop);
int loop_packet(const relay_loop *loop, int number, unsigned char **octets, int *size, unsigned char **from);
void loop_taken(relay_loop *loop);
void loop_disown(relay_loop *loop, int descriptor, relay_flow *flow);
/* cffi ends */

typedef struct {
    int descriptor, size;
    size_t at;
    unsigned char from[ADDRESS_OCTETS];
} relay_packet;

#endif

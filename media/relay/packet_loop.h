/* Interface of packet_loop.c, between the lines below also read by cffi (media/relay/compiled_build.py). */
#ifndef PACKET_LOOP_H
#define PACKET_LOOP_H

#include <stddef.h>
#include <stdint.h>

/* cffi begins */
#define RELAY_SLOTS 16
#define RELAY_SOURCES 16
#define RELAY_STATUSES 32
#define QUICK_OCTETS 1600
#define MAX_DATAGRAM 9216
#define TRAILER_LIMIT 148
#define UNSENT_BLOCKED 0
#define UNSENT_OVERSIZE 1
#define UNSENT_UNREACHABLE 2

typedef struct {
    uint32_t ssrc;
    uint16_t highest, first;
    uint64_t received, cycles;
    double transit, jitter;
    int has_transit;
} relay_source;

/* One direction of a stream. Counters only grow until they are taken; failed[] is by status of libsrtp. */
typedef struct {
    int out;
    int open;
    int noted;
    void *receiving, *sending;
    int receiving_mki, sending_mki;
    int trailer;
    double rate;
    double last, active;
    uint64_t packets, octets_in, octets_out;
    uint64_t failed[RELAY_STATUSES];
    uint64_t unsent[3];
    int source_count;
    relay_source sources[RELAY_SOURCES];
} relay_flow;

typedef struct relay_loop relay_loop;

relay_loop *loop_new(void *protect, void *unprotect, void *protect_mki, void *unprotect_mki);
void loop_free(relay_loop *loop);
int loop_watch(relay_loop *loop, int descriptor, relay_flow *flow);
int loop_run(relay_loop *loop, int epoll, int timeout_ms, double now);
int loop_others(const relay_loop *loop, int *into);
int loop_noted(const relay_loop *loop, int *into);
int loop_handed_back(const relay_loop *loop);
int loop_packet(const relay_loop *loop, int number, unsigned char **octets, int *size);
/* cffi ends */

typedef struct {
    int descriptor, size;
    size_t at;
} relay_packet;

#endif

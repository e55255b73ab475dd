/* The quick way of the media relay, compiled: read, unprotect, protect, send, for every flow that has packets.
 *
 * A flow is a pair of connected sockets whose standing checks have passed (media/relay/fast_path.py says which). What is
 * not plain good RTP of a bound SSRC is handed back with everything behind it in the same batch, in order, and the flow
 * rests until whoever took it has looked. Nothing here allocates per packet, and no key is ever seen: sessions are
 * libsrtp's, reached by the functions given to loop_new(). One thread at a time calls loop_run().
 */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include "packet_loop.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef SOL_UDP
#define SOL_UDP 17
#endif

#define EVENTS 256
#define ROOM (MAX_DATAGRAM + 1 + TRAILER_LIMIT)
#define MOST_HANDED_BACK (1 << 22)
#define CLOSE_S 0.002
#define BUSY 32
#define MANY 8

typedef int (*transform_fn)(void *, void *, int *);
typedef int (*protect_mki_fn)(void *, void *, int *, unsigned int, unsigned int);
typedef int (*unprotect_mki_fn)(void *, void *, int *, unsigned int);

struct relay_loop {
    transform_fn protect, unprotect;
    protect_mki_fn protect_mki;
    unprotect_mki_fn unprotect_mki;
    relay_flow **flows;
    int most;
    int others[EVENTS], other_count;
    int noted[EVENTS], noted_count;
    relay_packet *back;
    int back_count, back_room;
    unsigned char *arena;
    size_t arena_used, arena_room;
    struct epoll_event events[EVENTS];
    struct mmsghdr messages[RELAY_SLOTS];
    struct iovec vectors[RELAY_SLOTS];
    unsigned char slots[RELAY_SLOTS][ROOM];
};

relay_loop *loop_new(void *protect, void *unprotect, void *protect_mki, void *unprotect_mki)
{
    relay_loop *loop = calloc(1, sizeof *loop);
    if (loop == NULL)
        return NULL;
    loop->protect = (transform_fn)protect;
    loop->unprotect = (transform_fn)unprotect;
    loop->protect_mki = (protect_mki_fn)protect_mki;
    loop->unprotect_mki = (unprotect_mki_fn)unprotect_mki;
    for (int i = 0; i < RELAY_SLOTS; i++) {
        loop->vectors[i].iov_base = loop->slots[i];
        loop->vectors[i].iov_len = MAX_DATAGRAM + 1;
        loop->messages[i].msg_hdr.msg_iov = &loop->vectors[i];
        loop->messages[i].msg_hdr.msg_iovlen = 1;
    }
    return loop;
}

void loop_free(relay_loop *loop)
{
    if (loop == NULL)
        return;
    free(loop->flows);
    free(loop->back);
    free(loop->arena);
    free(loop);
}

int loop_watch(relay_loop *loop, int descriptor, relay_flow *flow)
{
    if (descriptor < 0)
        return -1;
    if (descriptor >= loop->most) {
        if (flow == NULL)
            return 0;
        int most = descriptor + 64;
        relay_flow **flows = realloc(loop->flows, (size_t)most * sizeof *flows);
        if (flows == NULL)
            return -1;
        memset(flows + loop->most, 0, (size_t)(most - loop->most) * sizeof *flows);
        loop->flows = flows;
        loop->most = most;
    }
    loop->flows[descriptor] = flow;
    return 0;
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Length of header, CSRCs and header extension (RFC 3550 5.1); 0 for what is no RTP (RFC 7983 7, RFC 5761 4) or not whole. */
static int header_of(const unsigned char *packet, int size)
{
    if (size < 12 || packet[0] >> 6 != 2 || (packet[1] >= 192 && packet[1] <= 223))
        return 0;
    int header = 12 + 4 * (packet[0] & 0x0F);
    if (packet[0] & 0x10) {
        if (header + 4 > size)
            return 0;
        header += 4 + 4 * (packet[header + 2] << 8 | packet[header + 3]);
    }
    return header <= size ? header : 0;
}

static uint32_t word_at(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static relay_source *source_of(relay_flow *flow, uint32_t ssrc)
{
    for (int i = 0; i < flow->source_count; i++)
        if (flow->sources[i].ssrc == ssrc)
            return &flow->sources[i];
    return NULL;
}

/* RFC 3550 A.1, as contexts.Source.note. */
static void note(relay_source *source, uint16_t sequence)
{
    source->received++;
    if (source->received == 1) {
        source->first = source->highest = sequence;
        return;
    }
    uint16_t ahead = (uint16_t)(sequence - source->highest);
    if (ahead > 0 && ahead < 0x8000) {
        if (sequence < source->highest)
            source->cycles++;
        source->highest = sequence;
    }
}

/* RFC 3550 6.4.1, as contexts.Source.measure. */
static void measure(relay_source *source, double transit)
{
    if (source->has_transit) {
        double distance = fabs(transit - source->transit);
        if (distance < 1 << 20)
            source->jitter += (distance - source->jitter) / 16;
    }
    source->transit = transit;
    source->has_transit = 1;
}

static void sent(relay_flow *flow, int in, int out)
{
    flow->packets++;
    flow->octets_in += (uint64_t)in;
    flow->octets_out += (uint64_t)out;
}

/* An error may tell of an earlier packet: then this one is tried once more. */
static void send_one(relay_flow *flow, const struct iovec *packet, int came)
{
    int fault = ECONNREFUSED;
    for (int attempt = 0; attempt < 2 && fault == ECONNREFUSED; attempt++) {
        if (send(flow->out, packet->iov_base, packet->iov_len, MSG_DONTWAIT) >= 0) {
            sent(flow, came, (int)packet->iov_len);
            return;
        }
        fault = errno;
    }
    int cause = fault == EAGAIN || fault == EWOULDBLOCK ? UNSENT_BLOCKED : fault == EMSGSIZE ? UNSENT_OVERSIZE : UNSENT_UNREACHABLE;
    flow->unsent[cause]++;
    flow->octets_in += (uint64_t)came;
    flow->noted = 1;
}

/* Send packets of one length in one call, others one by one. */
static void depart(relay_flow *flow, struct iovec *packets, const int *came, int count, int together)
{
    for (int i = 1; i < count && together; i++)
        together = packets[i].iov_len == packets[0].iov_len;
    if (count > 1 && together) {
        union {
            char octets[CMSG_SPACE(sizeof(uint16_t))];
            struct cmsghdr align;
        } control = {0};
        struct msghdr message = {.msg_iov = packets, .msg_iovlen = (size_t)count, .msg_control = &control, .msg_controllen = sizeof control.octets};
        struct cmsghdr *segment = CMSG_FIRSTHDR(&message);
        uint16_t size = (uint16_t)packets[0].iov_len;
        segment->cmsg_level = SOL_UDP;
        segment->cmsg_type = UDP_SEGMENT;
        segment->cmsg_len = CMSG_LEN(sizeof size);
        memcpy(CMSG_DATA(segment), &size, sizeof size);
        if (sendmsg(flow->out, &message, MSG_DONTWAIT) >= 0) {
            for (int i = 0; i < count; i++)
                sent(flow, came[i], (int)packets[i].iov_len);
            return;
        }
    }
    for (int i = 0; i < count; i++)
        send_one(flow, &packets[i], came[i]);
}

/* Keep a copy of a packet for the careful way; without memory it is lost, and counted as not sent. */
static void hand_back(relay_loop *loop, relay_flow *flow, int descriptor, const unsigned char *octets, int size)
{
    if (loop->back_count == loop->back_room) {
        int room = loop->back_room ? 2 * loop->back_room : 64;
        relay_packet *back = realloc(loop->back, (size_t)room * sizeof *back);
        if (back == NULL)
            goto lost;
        loop->back = back;
        loop->back_room = room;
    }
    if (loop->arena_used + (size_t)size > loop->arena_room) {
        size_t room = 2 * (loop->arena_used + (size_t)size) + 4096;
        unsigned char *arena = realloc(loop->arena, room);
        if (arena == NULL)
            goto lost;
        loop->arena = arena;
        loop->arena_room = room;
    }
    memcpy(loop->arena + loop->arena_used, octets, (size_t)size);
    loop->back[loop->back_count++] = (relay_packet){descriptor, size, loop->arena_used};
    loop->arena_used += (size_t)size;
    return;
lost:
    flow->unsent[UNSENT_BLOCKED]++;
    flow->octets_in += (uint64_t)size;
    flow->noted = 1;
}

static int transformed(relay_flow *flow, int status, int came)
{
    if (status == 0)
        return 1;
    flow->failed[status > 0 && status < RELAY_STATUSES ? status : 1]++;
    flow->octets_in += (uint64_t)came;
    flow->noted = 1;
    return 0;
}

/* One packet in its slot: 1 ready to be sent with *size, 0 dropped and counted, -1 for the careful way. */
static int carry_one(relay_loop *loop, relay_flow *flow, unsigned char *packet, int *size, double now, int alone)
{
    int came = *size;
    int header = came <= QUICK_OCTETS ? header_of(packet, came) : 0;
    if (header == 0 || header + flow->trailer > came)
        return -1;
    relay_source *source = source_of(flow, word_at(packet + 8));
    if (source == NULL)
        return -1;
    if (flow->receiving != NULL) {
        int status = flow->receiving_mki ? loop->unprotect_mki(flow->receiving, packet, size, 1)
                                         : loop->unprotect(flow->receiving, packet, size);
        if (!transformed(flow, status, came))
            return 0;
    }
    note(source, (uint16_t)(packet[2] << 8 | packet[3]));
    if (alone)
        measure(source, now * flow->rate - (double)word_at(packet + 4));
    if (flow->sending != NULL) {
        int status = flow->sending_mki ? loop->protect_mki(flow->sending, packet, size, 1, 0)
                                       : loop->protect(flow->sending, packet, size);
        if (!transformed(flow, status, came))
            return 0;
    }
    return 1;
}

static void carry(relay_loop *loop, relay_flow *flow, int descriptor, double now, int busy)
{
    int count = 1, sizes[RELAY_SLOTS], came[RELAY_SLOTS], ready = 0;
    struct iovec packets[RELAY_SLOTS];
    if (busy || now - flow->last < CLOSE_S) {
        count = recvmmsg(descriptor, loop->messages, RELAY_SLOTS, MSG_DONTWAIT, NULL);
        for (int i = 0; i < count; i++)
            sizes[i] = (int)loop->messages[i].msg_len;
    } else {
        sizes[0] = (int)recv(descriptor, loop->slots[0], MAX_DATAGRAM + 1, MSG_DONTWAIT);
        if (sizes[0] < 0)
            return;
    }
    if (count < 1) /* nothing there, or an error about something sent earlier */
        return;
    uint64_t before = flow->packets;
    int together = count >= MANY || (busy && count > 1);
    for (int i = 0; i < count; i++) {
        came[ready] = sizes[i];
        int verdict = carry_one(loop, flow, loop->slots[i], &sizes[i], now, count == 1);
        if (verdict < 0) {
            for (; i < count; i++)
                hand_back(loop, flow, descriptor, loop->slots[i], sizes[i]);
            flow->open = 0; /* until who takes them has looked */
        } else if (verdict > 0) {
            packets[ready].iov_base = loop->slots[i];
            packets[ready].iov_len = (size_t)sizes[i];
            ready++;
        }
    }
    depart(flow, packets, came, ready, together);
    flow->last = now;
    if (flow->packets != before)
        flow->active = now;
    if (flow->noted) {
        flow->noted = 0;
        loop->noted[loop->noted_count++] = descriptor;
    }
}

int loop_run(relay_loop *loop, int epoll, int timeout_ms, double now)
{
    loop->other_count = loop->noted_count = loop->back_count = 0;
    loop->arena_used = 0;
    int count = epoll_wait(epoll, loop->events, EVENTS, timeout_ms);
    if (count <= 0)
        return 0;
    if (now < 0)
        now = seconds_now();
    for (int i = 0; i < count; i++) {
        int descriptor = loop->events[i].data.fd;
        relay_flow *flow = descriptor >= 0 && descriptor < loop->most ? loop->flows[descriptor] : NULL;
        if (flow == NULL)
            loop->others[loop->other_count++] = descriptor;
        else if (flow->open && loop->arena_used < MOST_HANDED_BACK)
            carry(loop, flow, descriptor, now, count > BUSY);
    }
    return count;
}

int loop_others(const relay_loop *loop, int *into)
{
    memcpy(into, loop->others, (size_t)loop->other_count * sizeof *into);
    return loop->other_count;
}

int loop_noted(const relay_loop *loop, int *into)
{
    memcpy(into, loop->noted, (size_t)loop->noted_count * sizeof *into);
    return loop->noted_count;
}

int loop_handed_back(const relay_loop *loop)
{
    return loop->back_count;
}

int loop_packet(const relay_loop *loop, int number, unsigned char **octets, int *size)
{
    const relay_packet *packet = &loop->back[number];
    *octets = loop->arena + packet->at;
    *size = packet->size;
    return packet->descriptor;
}

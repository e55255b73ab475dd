/* The quick way of the media relay, compiled: read, unprotect, protect, send, for every flow that has packets.
 *
 * A flow is a pair of connected sockets whose standing checks have passed (media/relay/fast_path.py says which). What is
 * not plain good RTP of a bound SSRC is handed back with everything behind it in the same batch, in order, and the flow
 * rests until whoever took it has looked. How often that may happen in a second, and how much may wait for it, is limited:
 * beyond it such packets are dropped and counted here. What strangers send to the port of a settled peer is only counted.
 *
 * Nothing here allocates per packet, and no key is ever seen: sessions are libsrtp's, reached by the functions given to
 * loop_new(). Packets are carried by a thread of the loop's own after loop_start(), else by who calls loop_run(). Who
 * holds the loop has everything to himself; between flows the thread gives way to who waits. The thread hears of a
 * socket once (EPOLLET) and keeps it in a list of its own until it has read everything: asking again costs as much as
 * reading a packet.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

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
#define MOST_PACKETS_BACK (1 << 16)
#define BUSY 32
#define FLOWS_A_LOOK_AT_THE_CLOCK 8
#define MANY 8
#define FLOWS_A_TURN 16
#define LOOKS_A_SECOND 500.0
#define LOOKS_AT_ONCE 256.0f
#define STACK (256 * 1024)
#define TURN_NS 100000

typedef int (*transform_fn)(void *, void *, int *);
typedef int (*protect_mki_fn)(void *, void *, int *, unsigned int, unsigned int);
typedef int (*unprotect_mki_fn)(void *, void *, int *, unsigned int);

struct relay_loop {
    transform_fn protect, unprotect;
    protect_mki_fn protect_mki;
    unprotect_mki_fn unprotect_mki;
    int cause_of[RELAY_STATUSES];
    pthread_mutex_t lock;
    pthread_cond_t served;
    atomic_int waiting, stopping;
    unsigned turns;
    int served_since;
    int started;
    pthread_t thread;
    int epoll, wake, notice;
    double now, round;
    int named;
    relay_flow **flows;
    int *noted, *ready;
    int most, noted_count, ready_count;
    relay_packet *back;
    int back_count, back_room, told;
    unsigned char *arena;
    size_t arena_used, arena_room;
    struct epoll_event events[EVENTS];
    struct mmsghdr messages[RELAY_SLOTS];
    struct iovec vectors[RELAY_SLOTS];
    struct sockaddr_storage names[RELAY_SLOTS];
    unsigned char slots[RELAY_SLOTS][ROOM];
};

static void descriptors_closed(relay_loop *loop)
{
    int all[] = {loop->epoll, loop->wake, loop->notice};
    for (int i = 0; i < 3; i++)
        if (all[i] >= 0)
            close(all[i]);
}

relay_loop *loop_new(void *protect, void *unprotect, void *protect_mki, void *unprotect_mki, const int *cause_of)
{
    relay_loop *loop = calloc(1, sizeof *loop);
    if (loop == NULL)
        return NULL;
    loop->protect = (transform_fn)protect;
    loop->unprotect = (transform_fn)unprotect;
    loop->protect_mki = (protect_mki_fn)protect_mki;
    loop->unprotect_mki = (unprotect_mki_fn)unprotect_mki;
    memcpy(loop->cause_of, cause_of, sizeof loop->cause_of);
    loop->now = -1;
    for (int i = 0; i < RELAY_SLOTS; i++) {
        loop->vectors[i].iov_base = loop->slots[i];
        loop->vectors[i].iov_len = MAX_DATAGRAM + 1;
        loop->messages[i].msg_hdr.msg_iov = &loop->vectors[i];
        loop->messages[i].msg_hdr.msg_iovlen = 1;
    }
    loop->epoll = epoll_create1(EPOLL_CLOEXEC);
    loop->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    loop->notice = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = loop->wake};
    if (loop->epoll < 0 || loop->wake < 0 || loop->notice < 0 || epoll_ctl(loop->epoll, EPOLL_CTL_ADD, loop->wake, &event) < 0) {
        descriptors_closed(loop);
        free(loop);
        return NULL;
    }
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_setprotocol(&kind, PTHREAD_PRIO_INHERIT);
    pthread_mutex_init(&loop->lock, &kind);
    pthread_mutexattr_destroy(&kind);
    pthread_cond_init(&loop->served, NULL);
    return loop;
}

void loop_free(relay_loop *loop)
{
    if (loop == NULL)
        return;
    loop_stop(loop);
    descriptors_closed(loop);
    pthread_cond_destroy(&loop->served);
    pthread_mutex_destroy(&loop->lock);
    free(loop->flows);
    free(loop->noted);
    free(loop->ready);
    free(loop->back);
    free(loop->arena);
    free(loop);
}

int loop_descriptor(const relay_loop *loop)
{
    return loop->epoll;
}

int loop_notice(const relay_loop *loop)
{
    return loop->notice;
}

void loop_hold(relay_loop *loop)
{
    atomic_fetch_add(&loop->waiting, 1);
    pthread_mutex_lock(&loop->lock);
    atomic_fetch_sub(&loop->waiting, 1);
}

void loop_release(relay_loop *loop)
{
    loop->turns++;
    pthread_cond_broadcast(&loop->served);
    pthread_mutex_unlock(&loop->lock);
}

/* Called by the thread, which has the lock, between two flows: one turn for somebody else, if anybody wants it and some
 * flows were served since the last. Who has to look at what a flood sends wants one all the time. */
static void give_way(relay_loop *loop)
{
    unsigned turn = loop->turns;
    if (++loop->served_since < FLOWS_A_TURN || atomic_load(&loop->waiting) == 0)
        return;
    loop->served_since = 0;
    while (atomic_load(&loop->waiting) > 0 && loop->turns == turn && !atomic_load(&loop->stopping))
        pthread_cond_wait(&loop->served, &loop->lock);
}

void loop_set_time(relay_loop *loop, double now)
{
    loop->now = now;
}

static int watched(const relay_loop *loop, int descriptor, int operation)
{
    struct epoll_event event = {.events = EPOLLIN | (loop->started ? EPOLLET : 0), .data.fd = descriptor};
    return epoll_ctl(loop->epoll, operation, descriptor, &event);
}

static void forget(relay_loop *loop, relay_flow *flow, int descriptor)
{
    for (int i = 0; flow->noted && i < loop->noted_count; i++)
        if (loop->noted[i] == descriptor)
            loop->noted[i--] = loop->noted[--loop->noted_count];
    for (int i = 0; flow->queued && i < loop->ready_count; i++)
        if (loop->ready[i] == descriptor)
            loop->ready[i] = -1;
    flow->noted = flow->queued = 0;
}

int loop_watch(relay_loop *loop, int descriptor, relay_flow *flow)
{
    if (descriptor < 0)
        return -1;
    if (descriptor >= loop->most) {
        if (flow == NULL)
            return 0;
        int most = descriptor + descriptor / 2 + 64;
        relay_flow **flows = realloc(loop->flows, (size_t)most * sizeof *flows);
        if (flows == NULL)
            return -1;
        loop->flows = flows;
        int *noted = realloc(loop->noted, (size_t)most * sizeof *noted);
        if (noted == NULL)
            return -1;
        loop->noted = noted;
        int *ready = realloc(loop->ready, (size_t)(2 * (most + EVENTS)) * sizeof *ready);
        if (ready == NULL)
            return -1;
        loop->ready = ready;
        memset(flows + loop->most, 0, (size_t)(most - loop->most) * sizeof *flows);
        loop->most = most;
    }
    relay_flow *before = loop->flows[descriptor];
    if (before != NULL && before != flow)
        forget(loop, before, descriptor);
    loop->flows[descriptor] = flow;
    if (flow == NULL) {
        if (before != NULL)
            watched(loop, descriptor, EPOLL_CTL_DEL); /* closed already: then it is not there */
        return 0;
    }
    return loop_reopen(loop, descriptor);
}

/* Watch a socket and hear of what waits there already, whether it was watched before or not. */
int loop_reopen(relay_loop *loop, int descriptor)
{
    if (watched(loop, descriptor, EPOLL_CTL_ADD) == 0)
        return 0;
    return errno == EEXIST && watched(loop, descriptor, EPOLL_CTL_MOD) == 0 ? 0 : -1;
}

static double seconds_now(const relay_loop *loop)
{
    if (loop->now >= 0)
        return loop->now;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int is_rtcp(const unsigned char *packet, int size)
{
    return size > 1 && packet[0] >> 6 == 2 && packet[1] >= 192 && packet[1] <= 223;
}

/* Length of header, CSRCs and header extension (RFC 3550 5.1); 0 for what is no RTP (RFC 7983 7, RFC 5761 4) or not whole. */
static int header_of(const unsigned char *packet, int size)
{
    if (size < 12 || packet[0] >> 6 != 2 || is_rtcp(packet, size))
        return 0;
    int header = 12 + 4 * (packet[0] & 0x0F);
    if (packet[0] & 0x10) {
        if (header + 4 > size)
            return 0;
        header += 4 + 4 * (packet[header + 2] << 8 | packet[header + 3]);
    }
    return header <= size ? header : 0;
}

/* Why the careful way would refuse a packet before it asks where it is from; -1 when it would not. */
static int fault_of(const relay_flow *flow, const unsigned char *packet, int size)
{
    if (size > MAX_DATAGRAM)
        return DROP_OVERSIZE;
    if (flow->opaque)
        return -1;
    if (size == 0)
        return DROP_TOO_SHORT;
    if (packet[0] >> 6 != 2)
        return packet[0] <= 3 ? DROP_STUN : packet[0] >= 20 && packet[0] <= 63 ? DROP_DTLS : DROP_NOT_RTP;
    if (is_rtcp(packet, size)) {
        if (!flow->muxed)
            return DROP_NOT_RTP;
        return size < 8 + flow->rtcp_trailer ? DROP_TOO_SHORT : -1;
    }
    int header = header_of(packet, size);
    return header == 0 || header + flow->trailer > size ? DROP_TOO_SHORT : -1;
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

/* Count a drop; what is RTCP is not counted among the packets and octets of media. */
static void drop(relay_flow *flow, int cause, int size, int rtcp)
{
    flow->counts->drops[cause]++;
    if (rtcp) {
        flow->counts->rtcp_refused++;
    } else {
        flow->counts->refused++;
        flow->counts->octets_in += (uint64_t)size;
    }
}

static uint64_t dropped(const relay_flow *flow)
{
    return flow->counts->refused + flow->counts->rtcp_refused;
}

static void sent(relay_flow *flow, int in, int out)
{
    flow->counts->packets++;
    flow->counts->octets_in += (uint64_t)in;
    flow->far->packets_out++;
    flow->far->octets_out += (uint64_t)out;
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
    int blocked = fault == EAGAIN || fault == EWOULDBLOCK;
    drop(flow, blocked ? DROP_SEND_BLOCKED : fault == EMSGSIZE ? DROP_OVERSIZE : DROP_UNREACHABLE, came, 0);
}

/* Send packets of one length in one call, others one by one. */
static void depart(relay_flow *flow, struct iovec *packets, const int *came, int count, int together)
{
    for (int i = 1; i < count && together; i++)
        together = packets[i].iov_len == packets[0].iov_len;
    if (count > 1 && together && packets[0].iov_len > 0) {
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

/* Whether one more packet of this flow may be looked at closely now. When too much waits for a look already, none may:
 * better than to let every other flow wait, too. */
static int may_look(const relay_loop *loop, relay_flow *flow, double now)
{
    if (loop->arena_used > MOST_HANDED_BACK || loop->back_count > MOST_PACKETS_BACK)
        return 0;
    if (now > flow->looks_at) {
        flow->looks += (float)((now - flow->looks_at) * LOOKS_A_SECOND);
        if (flow->looks > LOOKS_AT_ONCE || flow->looks_at == 0)
            flow->looks = LOOKS_AT_ONCE;
        flow->looks_at = now;
    }
    if (flow->looks < 1)
        return 0;
    flow->looks -= 1;
    return 1;
}

/* Keep a copy of a packet for the careful way, and where it is from if it may not be from the peer. Without memory it is
 * lost, and counted. */
static void hand_back(relay_loop *loop, relay_flow *flow, int descriptor, const unsigned char *octets, int size, const unsigned char *from)
{
    if (loop->back_count == loop->back_room) {
        int room = loop->back_room ? 2 * loop->back_room : 64;
        relay_packet *back = realloc(loop->back, (size_t)room * sizeof *back);
        if (back == NULL)
            goto lost;
        loop->back = back;
        loop->back_room = room;
    }
    if (loop->arena == NULL || loop->arena_used + (size_t)size > loop->arena_room) { /* also for an empty datagram */
        size_t room = 2 * (loop->arena_used + (size_t)size) + 4096;
        unsigned char *arena = realloc(loop->arena, room);
        if (arena == NULL)
            goto lost;
        loop->arena = arena;
        loop->arena_room = room;
    }
    if (size > 0)
        memcpy(loop->arena + loop->arena_used, octets, (size_t)size);
    relay_packet *packet = &loop->back[loop->back_count++];
    *packet = (relay_packet){descriptor, size, loop->arena_used, {0}};
    if (from != NULL)
        memcpy(packet->from, from, ADDRESS_OCTETS);
    loop->arena_used += (size_t)size;
    flow->handed_back++;
    return;
lost:
    drop(flow, DROP_RATE_LIMITED, size, flow->muxed && is_rtcp(octets, size));
}

static int transformed(const relay_loop *loop, relay_flow *flow, int status, int came)
{
    if (status == 0)
        return 1;
    drop(flow, status > 0 && status < RELAY_STATUSES ? loop->cause_of[status] : DROP_AUTH_FAILED, came, 0);
    return 0;
}

/* One packet in its slot: 1 ready to be sent with *size, 0 dropped and counted, -1 for the careful way. */
static int carry_one(relay_loop *loop, relay_flow *flow, unsigned char *packet, int *size, double now, int alone)
{
    int came = *size;
    if (came > MAX_DATAGRAM) {
        drop(flow, DROP_OVERSIZE, came, flow->muxed && is_rtcp(packet, came));
        return 0;
    }
    if (flow->opaque)
        return 1;
    int header = header_of(packet, came);
    int whole = header != 0 && header + flow->trailer <= came;
    relay_source *source = whole ? source_of(flow, word_at(packet + 8)) : NULL;
    if (source == NULL) {
        if (whole && flow->source_count >= flow->source_limit) {
            drop(flow, DROP_SSRC_LIMIT, came, 0);
            return 0;
        }
    }
    if (source == NULL || flow->left == 0) {
        if (may_look(loop, flow, now))
            return -1;
        int fault = fault_of(flow, packet, came);
        drop(flow, fault < 0 ? DROP_RATE_LIMITED : fault, came, flow->muxed && is_rtcp(packet, came));
        return 0;
    }
    if (flow->receiving != NULL) {
        int status = flow->receiving_mki ? loop->unprotect_mki(flow->receiving, packet, size, 1)
                                         : loop->unprotect(flow->receiving, packet, size);
        if (!transformed(loop, flow, status, came))
            return 0;
    }
    flow->left--;
    note(source, (uint16_t)(packet[2] << 8 | packet[3]));
    if (alone)
        measure(source, now * flow->rate - (double)word_at(packet + 4));
    if (flow->sending != NULL) {
        int status = flow->sending_mki ? loop->protect_mki(flow->sending, packet, size, 1, 0)
                                       : loop->protect(flow->sending, packet, size);
        if (!transformed(loop, flow, status, came))
            return 0;
    }
    return 1;
}

static int receive(relay_loop *loop, int descriptor, int *sizes, int with_names)
{
    for (int i = 0; i < RELAY_SLOTS && (with_names || loop->named); i++) {
        loop->messages[i].msg_hdr.msg_name = with_names ? &loop->names[i] : NULL;
        loop->messages[i].msg_hdr.msg_namelen = with_names ? sizeof loop->names[i] : 0;
    }
    loop->named = with_names;
    int count = recvmmsg(descriptor, loop->messages, RELAY_SLOTS, MSG_DONTWAIT, NULL);
    for (int i = 0; i < count; i++)
        sizes[i] = (int)loop->messages[i].msg_len;
    return count;
}

/* Look up the way to a flow's peer on the processor that will use it.
 *
 * A socket keeps the route that connect() found, and the kernel has one of each for every processor. Those of sockets that
 * one thread has connected are all the same object, whose reference count each packet would then fetch from the other
 * processors' caches: two threads lose a tenth by it. What is connected already only looks the route up anew.
 */
static void look_up_route(relay_flow *flow)
{
    struct sockaddr_storage peer;
    socklen_t size = sizeof peer;
    flow->routed = 1;
    if (getpeername(flow->out, (struct sockaddr *)&peer, &size) == 0 && connect(flow->out, (struct sockaddr *)&peer, size) < 0)
        return; /* the one it has serves as well */
}

/* Carry what waits, up to all slots; returns whether there may be more. */
static int carry(relay_loop *loop, relay_flow *flow, int descriptor, double now, int busy)
{
    int sizes[RELAY_SLOTS], came[RELAY_SLOTS], ready = 0;
    struct iovec packets[RELAY_SLOTS];
    int count = receive(loop, descriptor, sizes, 0);
    if (count < 1) /* nothing there, or an error about something sent earlier */
        return count < 0 && errno != EAGAIN && errno != EWOULDBLOCK;
    uint64_t before = flow->counts->packets;
    if (!flow->routed && loop->started)
        look_up_route(flow);
    int together = count >= MANY || (busy && count > 1);
    for (int i = 0; i < count; i++) {
        came[ready] = sizes[i];
        int verdict = carry_one(loop, flow, loop->slots[i], &sizes[i], now, count == 1);
        if (verdict < 0) {
            int waiting = loop->back_count;
            for (; i < count; i++)
                hand_back(loop, flow, descriptor, loop->slots[i], sizes[i], NULL);
            if (loop->back_count > waiting) {
                flow->open = 0; /* until who takes them has looked */
                watched(loop, descriptor, EPOLL_CTL_DEL);
            }
        } else if (verdict > 0) {
            packets[ready].iov_base = loop->slots[i];
            packets[ready].iov_len = (size_t)sizes[i];
            ready++;
        }
    }
    depart(flow, packets, came, ready, together);
    if (flow->counts->packets != before)
        flow->counts->active = now;
    return count == RELAY_SLOTS;
}

/* Address and port of a sender, as they stand in relay_flow.known. */
static void address_of(const struct sockaddr_storage *name, unsigned char *into)
{
    memset(into, 0, ADDRESS_OCTETS);
    if (name->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)name;
        memcpy(into, &in->sin_addr, 4);
        memcpy(into + 16, &in->sin_port, 2);
    } else if (name->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)name;
        memcpy(into, &in->sin6_addr, 16);
        memcpy(into + 16, &in->sin6_port, 2);
    }
}

static int is_known(const relay_flow *flow, const unsigned char *from)
{
    for (int i = 0; i < flow->known_count; i++)
        if (memcmp(from, flow->known[i], ADDRESS_OCTETS) == 0)
            return 1;
    return 0;
}

/* What others than the peer send: refused, unless it is from an address that may take the port back, or of the peer and
 * came before it was known. */
static int refuse(relay_loop *loop, relay_flow *flow, int descriptor, double now)
{
    int sizes[RELAY_SLOTS], count = receive(loop, descriptor, sizes, flow->known_count > 0);
    for (int i = 0; i < count; i++) {
        const unsigned char *packet = loop->slots[i];
        int rtcp = flow->muxed && is_rtcp(packet, sizes[i]);
        int fault = fault_of(flow, packet, sizes[i]);
        unsigned char from[ADDRESS_OCTETS];
        if (fault < 0 && flow->known_count > 0) {
            address_of(&loop->names[i], from);
            if (is_known(flow, from)) {
                if (may_look(loop, flow, now)) {
                    hand_back(loop, flow, descriptor, packet, sizes[i], from);
                    continue;
                }
                fault = DROP_RATE_LIMITED;
            }
        }
        drop(flow, fault < 0 ? DROP_WRONG_SOURCE : fault, sizes[i], rtcp);
    }
    return count == RELAY_SLOTS || (count < 0 && errno != EAGAIN && errno != EWOULDBLOCK);
}

/* Tell of packets that were handed back, once until they are taken. */
static void tell(relay_loop *loop)
{
    uint64_t one = 1;
    if (loop->back_count > 0 && !loop->told && write(loop->notice, &one, sizeof one) == sizeof one)
        loop->told = 1;
}

static int serve(relay_loop *loop, relay_flow *flow, int descriptor, int busy)
{
    uint64_t before = dropped(flow);
    double now = loop->round;
    int more = flow->kind == STRANGERS ? refuse(loop, flow, descriptor, now) : carry(loop, flow, descriptor, now, busy);
    if (dropped(flow) != before && !flow->noted) {
        flow->noted = 1;
        loop->noted[loop->noted_count++] = descriptor;
    }
    return more && flow->open;
}

static relay_flow *flow_of(const relay_loop *loop, int descriptor)
{
    return descriptor >= 0 && descriptor < loop->most ? loop->flows[descriptor] : NULL;
}

static void enqueue(relay_loop *loop, relay_flow *flow, int descriptor)
{
    if (flow->queued)
        return;
    flow->queued = 1;
    loop->ready[loop->ready_count++] = descriptor;
}

/* Serve every flow that is ready once; between two of them others may have changed anything. */
static void go_round(relay_loop *loop, int keep)
{
    int count = loop->ready_count;
    for (int i = 0; i < count && !atomic_load(&loop->stopping); i++) {
        if (keep)
            give_way(loop);
        if (i % FLOWS_A_LOOK_AT_THE_CLOCK == 0)
            loop->round = seconds_now(loop);
        int descriptor = loop->ready[i];
        relay_flow *flow = flow_of(loop, descriptor);
        if (flow == NULL)
            continue;
        loop->ready[i] = -1;
        flow->queued = 0;
        if (flow->open && serve(loop, flow, descriptor, count > BUSY) && keep)
            enqueue(loop, flow, descriptor);
    }
    if (count == 0)
        return;
    memmove(loop->ready, loop->ready + count, (size_t)(loop->ready_count - count) * sizeof *loop->ready);
    loop->ready_count -= count;
}

static void take_events(relay_loop *loop, int count)
{
    for (int i = 0; i < count; i++) {
        relay_flow *flow = flow_of(loop, loop->events[i].data.fd);
        if (flow != NULL)
            enqueue(loop, flow, loop->events[i].data.fd);
    }
}

int loop_run(relay_loop *loop)
{
    int count = epoll_wait(loop->epoll, loop->events, EVENTS, 0);
    if (count <= 0)
        return 0;
    take_events(loop, count);
    go_round(loop, 0);
    return count;
}

/* Ask for a packet that comes to be carried at once, whatever else this processor is at: short turns come sooner (Linux
 * 6.12; older ones take no notice). The interpreter's thread, which is often on the same one, would otherwise finish its
 * turn first. */
static void ask_for_short_turns(void)
{
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } wanted = {.size = sizeof wanted, .runtime = TURN_NS};
    int policy;
    struct sched_param scheduling;
    if (pthread_getschedparam(pthread_self(), &policy, &scheduling) == 0 && policy == SCHED_OTHER) {
        wanted.nice = getpriority(PRIO_PROCESS, 0);
        (void)!syscall(SYS_sched_setattr, 0, &wanted, 0);
    }
}

static void *carry_on(void *given)
{
    relay_loop *loop = given;
    int waits = 1;
    ask_for_short_turns();
    while (!atomic_load(&loop->stopping)) {
        int count = epoll_wait(loop->epoll, loop->events, EVENTS, waits ? -1 : 0);
        pthread_mutex_lock(&loop->lock);
        take_events(loop, count);
        go_round(loop, 1);
        waits = loop->ready_count == 0;
        tell(loop);
        pthread_mutex_unlock(&loop->lock);
    }
    return NULL;
}

/* 0, or an errno. Priority 0 is the usual scheduling, 1 to 99 SCHED_FIFO; a negative cpu is any. */
int loop_start(relay_loop *loop, int cpu, int priority)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    if (loop->started)
        return 0;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    if (cpu >= 0) {
        cpu_set_t cpus;
        CPU_ZERO(&cpus);
        if (cpu < CPU_SETSIZE)
            CPU_SET((size_t)cpu, &cpus);
        pthread_attr_setaffinity_np(&attributes, sizeof cpus, &cpus);
    }
    if (priority > 0) {
        struct sched_param scheduling = {.sched_priority = priority};
        pthread_attr_setinheritsched(&attributes, PTHREAD_EXPLICIT_SCHED);
        pthread_attr_setschedpolicy(&attributes, SCHED_FIFO);
        pthread_attr_setschedparam(&attributes, &scheduling);
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int fault = pthread_create(&loop->thread, &attributes, carry_on, loop);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    loop->started = fault == 0;
    return fault;
}

/* The loop is not held by who calls this. */
void loop_stop(relay_loop *loop)
{
    uint64_t one = 1;
    if (!loop->started)
        return;
    loop_hold(loop);
    atomic_store(&loop->stopping, 1);
    loop_release(loop);
    while (write(loop->wake, &one, sizeof one) < 0 && errno == EINTR)
        ;
    pthread_join(loop->thread, NULL);
    loop->started = 0;
}

/* Whether packets wait for the loop, or for who takes what it handed back. The loop is held. For tests: it asks every socket. */
int loop_waiting(relay_loop *loop)
{
    if (loop->back_count > 0)
        return 1;
    for (int descriptor = 0; descriptor < loop->most; descriptor++) {
        struct pollfd asked = {.fd = descriptor, .events = POLLIN};
        if (loop->flows[descriptor] != NULL && poll(&asked, 1, 0) > 0)
            return 1;
    }
    return 0;
}

/* Descriptors of flows that dropped something since they were last told here. */
int loop_noted(relay_loop *loop, int *into, int room)
{
    int count = 0;
    while (count < room && loop->noted_count > 0) {
        int descriptor = loop->noted[--loop->noted_count];
        relay_flow *flow = descriptor < loop->most ? loop->flows[descriptor] : NULL;
        if (flow == NULL)
            continue;
        flow->noted = 0;
        into[count++] = descriptor;
    }
    return count;
}

int loop_handed_back(const relay_loop *loop)
{
    return loop->back_count;
}

int loop_packet(const relay_loop *loop, int number, unsigned char **octets, int *size, unsigned char **from)
{
    relay_packet *packet = &loop->back[number];
    *octets = loop->arena + packet->at;
    *size = packet->size;
    *from = packet->from;
    return packet->descriptor;
}

/* Everything handed back was taken. */
void loop_taken(relay_loop *loop)
{
    uint64_t count;
    loop->back_count = 0;
    loop->arena_used = 0;
    loop->told = 0;
    if (read(loop->notice, &count, sizeof count) < 0)
        return; /* nobody had told */
}

/* What a flow handed back and nobody took yet is refused: its socket is about to be another's. The loop is held. */
void loop_disown(relay_loop *loop, int descriptor, relay_flow *flow)
{
    for (int i = 0; i < loop->back_count; i++) {
        relay_packet *packet = &loop->back[i];
        if (packet->descriptor != descriptor)
            continue;
        const unsigned char *octets = loop->arena + packet->at;
        packet->descriptor = -1;
        drop(flow, DROP_WRONG_SOURCE, packet->size, flow->muxed && is_rtcp(octets, packet->size));
    }
}

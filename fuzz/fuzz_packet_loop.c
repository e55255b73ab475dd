/* Fuzz the compiled packet loop: a script of datagrams, configurations and faults, played to it by a kernel made up here.
 *
 * packet_loop.c is part of this file, with the system calls it makes replaced: what arrives at a socket, what sending
 * answers and whether there is memory is what the input says. SRTP is replaced by functions that fail when told, that
 * write exactly as far as libsrtp may, and that insist on a whole packet in a slot that has room for it. What a slot has
 * behind its datagram may not be touched. After each step every datagram that was read, and every octet, must be counted
 * once: sent, dropped by a cause, or handed back, and that whole and in order. At the end nothing may be left unread.
 * The first octet chooses between the loop as one calls it and as its thread does, which hears of a socket once.
 *
 * With clang: -fsanitize=fuzzer,address,undefined. With -DREPLAY: plays the files it is given, then as many invented
 * inputs as its first argument says, without libFuzzer.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <netinet/in.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__clang__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, size) ((void)(at), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(at, size) ((void)(at), (void)(size))
#endif

static int kernel_recvmmsg(int, struct mmsghdr *, unsigned, int, void *);
static ssize_t kernel_send(int, const void *, size_t, int);
static ssize_t kernel_sendmsg(int, const struct msghdr *, int);
static int kernel_epoll_create(int);
static int kernel_epoll_ctl(int, int, int, struct epoll_event *);
static int kernel_epoll_wait(int, struct epoll_event *, int, int);
static int kernel_eventfd(unsigned, int);
static ssize_t kernel_write(int, const void *, size_t);
static ssize_t kernel_read(int, void *, size_t);
static int kernel_close(int);
static void *kernel_realloc(void *, size_t);
#define recvmmsg kernel_recvmmsg
#define send kernel_send
#define sendmsg kernel_sendmsg
#define epoll_create1 kernel_epoll_create
#define epoll_ctl kernel_epoll_ctl
#define epoll_wait kernel_epoll_wait
#define eventfd kernel_eventfd
#define write kernel_write
#define read kernel_read
#define close kernel_close
#define realloc kernel_realloc
#include "../media/relay/packet_loop.c"
#undef realloc
#undef close
#undef write
#undef read

#define SOCKETS 6
#define FIRST 3 /* descriptor of the first socket */
#define QUEUE 24
#define LOG 4096
#define BOUND 0x0DECADE0u

#define MUST(what)                                                                                                     \
    do {                                                                                                               \
        if (!(what)) {                                                                                                 \
            fprintf(stderr, "not so: %s\n", #what);                                                                    \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

typedef struct {
    int size;
    unsigned char octets[MAX_DATAGRAM + 300];
    struct sockaddr_storage from;
} datagram;

static datagram queues[SOCKETS][QUEUE];
static int waiting[SOCKETS], watched_now[SOCKETS];
static int news[SOCKETS], threaded;
static uint64_t read_from[SOCKETS], octets_from[SOCKETS], taken_from[SOCKETS], octets_taken[SOCKETS];
static struct {
    int size;
    uint32_t sum;
} came_from[SOCKETS][LOG];
static int log_place[SOCKETS];
static relay_flow flows[SOCKETS];
static relay_counts counts[SOCKETS];
static relay_source sources[SOCKETS][4];
static relay_loop *loop;
static const uint8_t *script, *script_end;
static unsigned transform_fault, send_fault, no_memory, sent_packets;
static int sessions[2];

static unsigned next(void)
{
    return script < script_end ? *script++ : 0;
}

static unsigned next_two(void)
{
    unsigned high = next();
    return high << 8 | next();
}

static int place_of(int descriptor)
{
    MUST(descriptor >= FIRST && descriptor < FIRST + SOCKETS);
    return descriptor - FIRST;
}

static uint32_t sum_of(const unsigned char *octets, int size)
{
    uint32_t sum = 2166136261u;
    for (int i = 0; i < size; i++)
        sum = (sum ^ octets[i]) * 16777619u;
    return sum;
}

/* The kernel. */

static int kernel_recvmmsg(int descriptor, struct mmsghdr *messages, unsigned room, int flags, void *timeout)
{
    int place = place_of(descriptor), count = 0;
    MUST((flags & MSG_DONTWAIT) && timeout == NULL && room <= RELAY_SLOTS);
    if (waiting[place] == 0) {
        errno = send_fault == 4 ? ECONNREFUSED : EAGAIN;
        send_fault = send_fault == 4 ? 0 : send_fault;
        return -1;
    }
    for (; count < waiting[place] && count < (int)room; count++) {
        datagram *one = &queues[place][count];
        struct msghdr *header = &messages[count].msg_hdr;
        MUST(header->msg_iovlen == 1);
        size_t size = (size_t)one->size < header->msg_iov->iov_len ? (size_t)one->size : header->msg_iov->iov_len;
        ASAN_UNPOISON_MEMORY_REGION(header->msg_iov->iov_base, ROOM);
        memcpy(header->msg_iov->iov_base, one->octets, size);
        ASAN_POISON_MEMORY_REGION((unsigned char *)header->msg_iov->iov_base + size, ROOM - size);
        if (read_from[place] + (unsigned)count < LOG) {
            came_from[place][read_from[place] + (unsigned)count].size = (int)size;
            came_from[place][read_from[place] + (unsigned)count].sum = sum_of(one->octets, (int)size);
        }
        octets_from[place] += size;
        messages[count].msg_len = (unsigned)size;
        if (header->msg_name != NULL) {
            MUST(header->msg_namelen >= sizeof one->from);
            memcpy(header->msg_name, &one->from, sizeof one->from);
        }
    }
    memmove(queues[place], queues[place] + count, (size_t)(waiting[place] - count) * sizeof(datagram));
    waiting[place] -= count;
    read_from[place] += (uint64_t)count;
    return count;
}

static int refused_sending(void)
{
    static const int faults[] = {0, EAGAIN, EMSGSIZE, ECONNREFUSED, 0, ENETUNREACH};
    errno = faults[send_fault % 6];
    return errno != 0;
}

/* What leaves to a side that is not opaque is RTP of a bound source, and nothing else ever. */
static void leaves(int descriptor, const unsigned char *octets, size_t size)
{
    const relay_flow *flow = NULL;
    for (int i = 0; i < SOCKETS; i++)
        if (flows[i].kind == FLOW && flows[i].out == descriptor)
            flow = &flows[i];
    MUST(flow != NULL);
    MUST(size <= ROOM);
    if (!flow->opaque) {
        MUST(size >= 12 && octets[0] >> 6 == 2 && !(octets[1] >= 192 && octets[1] <= 223));
        MUST(source_of((relay_flow *)flow, word_at(octets + 8)) != NULL);
    }
    sent_packets++;
}

static ssize_t kernel_send(int descriptor, const void *octets, size_t size, int flags)
{
    MUST(flags & MSG_DONTWAIT);
    if (refused_sending())
        return -1;
    leaves(descriptor, octets, size);
    return (ssize_t)size;
}

static ssize_t kernel_sendmsg(int descriptor, const struct msghdr *message, int flags)
{
    size_t total = 0;
    MUST((flags & MSG_DONTWAIT) && message->msg_iovlen > 1 && message->msg_iovlen <= RELAY_SLOTS);
    for (size_t i = 0; i < message->msg_iovlen; i++)
        MUST(message->msg_iov[i].iov_len == message->msg_iov[0].iov_len && message->msg_iov[i].iov_len > 0);
    if (refused_sending())
        return -1;
    for (size_t i = 0; i < message->msg_iovlen; i++) {
        leaves(descriptor, message->msg_iov[i].iov_base, message->msg_iov[i].iov_len);
        total += message->msg_iov[i].iov_len;
    }
    return (ssize_t)total;
}

static int kernel_epoll_create(int flags)
{
    (void)flags;
    return 100;
}

static int kernel_eventfd(unsigned value, int flags)
{
    static int last = 100;
    (void)value, (void)flags;
    last = last == 101 ? 102 : 101;
    return last;
}

static int kernel_epoll_ctl(int epoll, int operation, int descriptor, struct epoll_event *event)
{
    MUST(epoll == 100);
    if (descriptor == 101 || descriptor == 102)
        return 0;
    int *is = &watched_now[place_of(descriptor)];
    MUST(operation == EPOLL_CTL_DEL || !!(event->events & EPOLLET) == threaded);
    if (operation == EPOLL_CTL_ADD && *is) {
        errno = EEXIST;
        return -1;
    }
    if (operation != EPOLL_CTL_ADD && !*is) {
        errno = ENOENT;
        return -1;
    }
    MUST(operation == EPOLL_CTL_DEL || event->data.fd == descriptor);
    *is = operation != EPOLL_CTL_DEL;
    news[place_of(descriptor)] = 1;
    return 0;
}

static int kernel_epoll_wait(int epoll, struct epoll_event *events, int room, int timeout)
{
    int count = 0;
    MUST(epoll == 100 && timeout == 0 && room >= SOCKETS);
    for (int i = 0; i < SOCKETS; i++)
        if (watched_now[i] && waiting[i] && (news[i] || !threaded)) {
            news[i] = 0;
            events[count].events = EPOLLIN;
            events[count++].data.fd = FIRST + i;
        }
    return count;
}

static ssize_t kernel_write(int descriptor, const void *octets, size_t size)
{
    (void)descriptor, (void)octets;
    return (ssize_t)size;
}

static ssize_t kernel_read(int descriptor, void *octets, size_t size)
{
    (void)descriptor;
    memset(octets, 0, size);
    return (ssize_t)size;
}

static int kernel_close(int descriptor)
{
    (void)descriptor;
    return 0;
}

static void *kernel_realloc(void *before, size_t size)
{
    return no_memory ? NULL : realloc(before, size);
}

/* SRTP. */

static void in_a_slot(const unsigned char *packet, int size)
{
    ptrdiff_t at = packet - loop->slots[0];
    MUST(at >= 0 && at % ROOM == 0 && at / ROOM < RELAY_SLOTS);
    MUST(size >= 12 && size + TRAILER_LIMIT <= ROOM);
}

static relay_flow *owner_of(void *session)
{
    int place = (int)((int *)session - sessions) ? 2 : 0;
    return &flows[place];
}

static int unprotects(void *session, void *packet, int *size)
{
    int trailer = owner_of(session)->trailer, header = header_of(packet, *size);
    in_a_slot(packet, *size);
    MUST(header > 0 && header + trailer <= *size);
    if (transform_fault)
        return (int)transform_fault - 2;
    *size -= trailer;
    return 0;
}

static int protects(void *session, void *packet, int *size)
{
    (void)session;
    in_a_slot(packet, *size);
    MUST(header_of(packet, *size) > 0);
    if (transform_fault & 0x80)
        return (int)(transform_fault & 31);
    int grows = 16 + (int)(transform_fault % 133);
    ASAN_UNPOISON_MEMORY_REGION((unsigned char *)packet + *size, grows);
    memset((unsigned char *)packet + *size, 0xA5, (size_t)grows);
    *size += grows;
    return 0;
}

static int unprotects_mki(void *session, void *packet, int *size, unsigned use)
{
    MUST(use == 1);
    return unprotects(session, packet, size);
}

static int protects_mki(void *session, void *packet, int *size, unsigned use, unsigned index)
{
    MUST(use == 1 && index == 0);
    return protects(session, packet, size);
}

/* The engine. */

static void configure(int place)
{
    relay_flow *flow = &flows[place];
    unsigned choice = next();
    flow->counts = &counts[place];
    flow->kind = place % 2 ? STRANGERS : FLOW;
    flow->opaque = (choice & 1) && flow->kind == FLOW ? 1 : 0;
    flow->muxed = (choice & 2) != 0;
    flow->trailer = flow->rtcp_trailer = 0;
    int secured = (choice & 4) && !flow->opaque && (place == 0 || place == 2);
    flow->receiving_mki = flow->sending_mki = (choice & 16) != 0;
    if (secured || flow->kind == STRANGERS)
        flow->trailer = (unsigned char)(next() % (TRAILER_LIMIT + 1));
    if (flow->trailer)
        flow->rtcp_trailer = flow->trailer + 4;
    flow->source_limit = 4;
    flow->source_count = (choice >> 5) % 5;
    flow->known_count = (unsigned char)(next() % (RELAY_KNOWN + 1));
    if (flow->kind == FLOW) {
        flow->out = FIRST + (place < 4 ? 4 + place / 2 : place - 4); /* sockets that nobody reads from send for 0 and 2 */
        flow->far = &counts[flow->out - FIRST];
        flow->receiving = secured ? &sessions[place == 2] : NULL;
        flow->sending = (choice & 8) && !flow->opaque ? &sessions[place == 2] : NULL;
        flow->rate = 8000;
        flow->sources = sources[place];
        for (int i = 0; i < 4; i++)
            flow->sources[i].ssrc = BOUND + (unsigned)i;
        return;
    }
    memset(flow->known, 0, sizeof flow->known);
    for (int i = 0; i < flow->known_count; i++) {
        flow->known[i][3] = (unsigned char)(i + 1);
        flow->known[i][17] = 7;
    }
}

static void deliver(int place, int size, int padding)
{
    if (waiting[place] == QUEUE)
        return;
    datagram *one = &queues[place][waiting[place]++];
    news[place] = 1;
    if (size > (int)sizeof one->octets)
        size = (int)sizeof one->octets;
    memset(one->octets, padding, (size_t)size);
    for (int i = 0; i < size && i < 64; i++)
        one->octets[i] = (unsigned char)next();
    one->size = size;
    memset(&one->from, 0, sizeof one->from);
    unsigned from = next();
    if (from & 0x80) {
        struct sockaddr_in6 *name = (struct sockaddr_in6 *)&one->from;
        name->sin6_family = AF_INET6;
        name->sin6_addr.s6_addr[3] = (unsigned char)(from & 7);
        name->sin6_port = htons(7);
    } else {
        struct sockaddr_in *name = (struct sockaddr_in *)&one->from;
        name->sin_family = AF_INET;
        name->sin_addr.s_addr = htonl(from & 7);
        name->sin_port = htons(7);
    }
}

/* Good RTP, but for what the script changes. */
static void deliver_rtp(int place)
{
    if (waiting[place] == QUEUE)
        return;
    datagram *one = &queues[place][waiting[place]++];
    news[place] = 1;
    unsigned size = 12 + next() * 8, sequence = next_two(), which = next();
    memset(one->octets, 0x5A, size);
    one->octets[0] = 0x80;
    one->octets[1] = 8;
    one->octets[2] = (unsigned char)(sequence >> 8);
    one->octets[3] = (unsigned char)sequence;
    memset(one->octets + 4, (int)(sequence & 0xFF), 4);
    uint32_t ssrc = htonl(BOUND + which % 6);
    memcpy(one->octets + 8, &ssrc, sizeof ssrc);
    if (which & 0x80)
        one->octets[next() % size] ^= (unsigned char)(1 + next());
    one->size = (int)size;
    memset(&one->from, 0, sizeof one->from);
}

/* Each is a datagram that came there, whole, and after the one before it. */
static void look_at(int number)
{
    unsigned char *octets, *from;
    int size, descriptor = loop_packet(loop, number, &octets, &size, &from);
    MUST(size >= 0 && size <= MAX_DATAGRAM + 1);
    if (descriptor == -1)
        return;
    int place = place_of(descriptor), at = log_place[place];
    uint32_t sum = sum_of(octets, size);
    while (at < (int)read_from[place] && at < LOG && (came_from[place][at].size != size || came_from[place][at].sum != sum))
        at++;
    MUST(at < (int)read_from[place] || read_from[place] >= LOG);
    log_place[place] = at + 1;
    taken_from[place]++;
    octets_taken[place] += (uint64_t)size;
}

static void take_handed_back(void)
{
    for (int i = 0; i < loop_handed_back(loop); i++)
        look_at(i);
    loop_taken(loop);
    for (int i = 0; i < SOCKETS; i++)
        if (flow_of(loop, FIRST + i) == &flows[i] && !flows[i].open) {
            flows[i].open = 1;
            loop_reopen(loop, FIRST + i);
        }
}

static void go(void)
{
    if (!threaded) {
        loop_run(loop);
        return;
    }
    int count = kernel_epoll_wait(loop->epoll, loop->events, EVENTS, 0);
    loop_hold(loop);
    take_events(loop, count);
    go_round(loop, 1);
    tell(loop);
    loop_release(loop);
}

static void check(void)
{
    uint64_t packets = 0, packets_out = 0;
    for (int i = 0; i < SOCKETS; i++) {
        const relay_flow *flow = &flows[i];
        const relay_counts *counted = &counts[i];
        uint64_t drops = 0;
        for (int cause = 0; cause < RELAY_CAUSES; cause++)
            drops += counted->drops[cause];
        MUST(drops == counted->refused + counted->rtcp_refused);
        MUST(flow->kind == FLOW || counted->packets == 0);
        packets += counted->packets;
        packets_out += counted->packets_out;
        uint64_t back = 0, octets_back = 0;
        for (int j = 0; j < loop->back_count; j++)
            if (loop->back[j].descriptor == FIRST + i) {
                back++;
                octets_back += (uint64_t)loop->back[j].size;
            }
        MUST(read_from[i] == counted->packets + drops + back + taken_from[i]);
        if (counted->rtcp_refused == 0)
            MUST(octets_from[i] == counted->octets_in + octets_back + octets_taken[i]);
    }
    MUST(packets == sent_packets && packets_out == sent_packets);
    MUST(loop->noted_count >= 0 && loop->noted_count <= loop->most && loop->ready_count >= 0);
    MUST(loop->ready_count <= 2 * (loop->most + EVENTS));
    for (int i = 0; i < loop->noted_count; i++)
        for (int j = 0; j < i; j++)
            MUST(loop->noted[i] != loop->noted[j]);
    MUST(loop->back_count <= loop->back_room && loop->arena_used <= loop->arena_room);
}

static void step(void)
{
    unsigned choice = next();
    int place = (int)((choice >> 4) % SOCKETS), noted[4];
    relay_flow *flow = &flows[place];
    switch (choice & 15) {
    case 0:
    case 1:
        deliver(place, (int)(next_two() % (MAX_DATAGRAM + 300)), (int)next());
        break;
    case 2:
        deliver(place, (int)next() % 64, 0);
        break;
    case 3:
    case 4:
    case 5:
        deliver_rtp(place);
        break;
    case 6:
    case 7:
        go();
        break;
    case 8:
        take_handed_back();
        break;
    case 9:
        flow->open = 1;
        loop_watch(loop, FIRST + place, flow);
        break;
    case 10:
        if (flow_of(loop, FIRST + place) == flow) {
            flow->open = 0;
            loop_watch(loop, FIRST + place, NULL);
            loop_disown(loop, FIRST + place, flow);
        }
        break;
    case 11:
        configure(place);
        break;
    case 12:
        transform_fault = next();
        break;
    case 13:
        send_fault = next() % 6;
        break;
    case 14:
        no_memory = next() == 0xEE;
        break;
    default:
        loop_set_time(loop, next() / 16.0);
        MUST(loop_noted(loop, noted, 4) <= 4);
    }
    check();
}

/* What is watched is read in the end, whatever came before. */
static void finish(void)
{
    no_memory = send_fault = 0;
    for (int i = 0; i < 8 * QUEUE; i++) {
        go();
        take_handed_back();
        check();
    }
    for (int i = 0; i < SOCKETS; i++)
        MUST(waiting[i] == 0 || flow_of(loop, FIRST + i) == NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *octets, size_t size)
{
    int cause_of[RELAY_STATUSES];
    for (int i = 0; i < RELAY_STATUSES; i++)
        cause_of[i] = i % RELAY_CAUSES;
    script = octets;
    script_end = octets + size;
    memset(waiting, 0, sizeof waiting);
    memset(watched_now, 0, sizeof watched_now);
    memset(read_from, 0, sizeof read_from);
    memset(flows, 0, sizeof flows);
    memset(counts, 0, sizeof counts);
    memset(sources, 0, sizeof sources);
    memset(news, 0, sizeof news);
    memset(octets_from, 0, sizeof octets_from);
    memset(taken_from, 0, sizeof taken_from);
    memset(octets_taken, 0, sizeof octets_taken);
    memset(log_place, 0, sizeof log_place);
    threaded = next() & 1;
    transform_fault = send_fault = no_memory = sent_packets = 0;
    loop = loop_new((void *)protects, (void *)unprotects, (void *)protects_mki, (void *)unprotects_mki, cause_of);
    MUST(loop != NULL);
    loop->started = threaded; /* its part is played by go() */
    loop_set_time(loop, 1);
    for (int place = 0; place < SOCKETS; place++) {
        configure(place);
        flows[place].open = 1;
        if (place < 4)
            loop_watch(loop, FIRST + place, &flows[place]);
    }
    while (script < script_end)
        step();
    finish();
    ASAN_UNPOISON_MEMORY_REGION(loop->slots, sizeof loop->slots);
    loop->started = 0;
    loop_free(loop);
    return 0;
}

#ifdef REPLAY
int main(int count, char **words)
{
    static uint8_t input[1 << 16];
    uint64_t state = 0x9E3779B97F4A7C15u;
    long invented = count > 1 ? atol(words[1]) : 0;
    for (int i = 2; i < count; i++) {
        FILE *file = fopen(words[i], "rb");
        if (file == NULL)
            return 2;
        size_t size = fread(input, 1, sizeof input, file);
        fclose(file);
        LLVMFuzzerTestOneInput(input, size);
    }
    for (long i = 0; i < invented; i++) {
        size_t size = 0;
        while (size < 600) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            input[size++] = (uint8_t)(state >> 40);
        }
        LLVMFuzzerTestOneInput(input, size);
    }
    printf("%d files and %ld invented inputs played\n", count > 2 ? count - 2 : 0, invented);
    return 0;
}
#endif

/* Drives packet_loop.c as the engine does, from one thread, while another one sends; for a race detector to watch.
 *
 * Prints how many packets were carried and how many were handed back; ends with 1 when the counts do not add up.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "packet_loop.h"

#define PAIRS 8
#define KNOWN 0x0DECADE0u

static int phones[PAIRS], inputs[PAIRS], outputs[PAIRS], sinks[PAIRS];
static relay_flow flows[PAIRS];
static relay_counts counts[PAIRS];
static relay_source sources[PAIRS];
static atomic_int ended;

static int keeps(void *session, void *packet, int *size)
{
    (void)session, (void)packet, (void)size;
    return 0;
}

static int keeps_mki(void *session, void *packet, int *size, unsigned int use, unsigned int index)
{
    (void)use, (void)index;
    return keeps(session, packet, size);
}

static int opens_mki(void *session, void *packet, int *size, unsigned int use)
{
    (void)use;
    return keeps(session, packet, size);
}

static int bound(struct sockaddr_in *at)
{
    int made = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof *at;
    if (made < 0 || bind(made, (struct sockaddr *)&any, sizeof any) < 0 || getsockname(made, (struct sockaddr *)at, &size) < 0)
        exit(2);
    return made;
}

static void *talk(void *nothing)
{
    unsigned char packet[60] = {0x80, 8}, drained[100];
    unsigned turn = 0;
    struct timespec pause = {0, 200000};
    (void)nothing;
    while (!atomic_load(&ended)) {
        for (int i = 0; i < PAIRS; i++) {
            uint32_t ssrc = htonl(turn % 37 == (unsigned)i ? KNOWN + 1 : KNOWN);
            packet[2] = (unsigned char)(turn >> 8);
            packet[3] = (unsigned char)turn;
            memcpy(packet + 8, &ssrc, 4);
            send(phones[i], packet, turn % 41 == (unsigned)i ? 3 : sizeof packet, MSG_DONTWAIT);
            while (recv(sinks[i], drained, sizeof drained, MSG_DONTWAIT) > 0)
                ;
        }
        turn++;
        nanosleep(&pause, NULL);
    }
    return NULL;
}

int main(int count, char **words)
{
    int cause_of[RELAY_STATUSES] = {0}, noted[64];
    int seconds = count > 1 ? atoi(words[1]) : 1;
    uint64_t looked = 0, carried = 0, handed_back = 0;
    relay_loop *loop = loop_new((void *)keeps, (void *)keeps, (void *)keeps_mki, (void *)opens_mki, cause_of);
    if (loop == NULL || loop_start(loop, -1, 0) != 0)
        return 2;
    for (int i = 0; i < PAIRS; i++) {
        struct sockaddr_in phone, input, output, sink;
        phones[i] = bound(&phone), inputs[i] = bound(&input), outputs[i] = bound(&output), sinks[i] = bound(&sink);
        if (connect(phones[i], (struct sockaddr *)&input, sizeof input) < 0 ||
            connect(inputs[i], (struct sockaddr *)&phone, sizeof phone) < 0 ||
            connect(outputs[i], (struct sockaddr *)&sink, sizeof sink) < 0)
            return 2;
        sources[i].ssrc = KNOWN;
        flows[i] = (relay_flow){.counts = &counts[i], .far = &counts[i], .out = outputs[i], .open = 1, .source_count = 1, .source_limit = 16, .sources = &sources[i], .rate = 8000, .left = UINT64_MAX};
        loop_hold(loop);
        if (loop_watch(loop, inputs[i], &flows[i]))
            return 2;
        loop_release(loop);
    }
    pthread_t talker;
    pthread_create(&talker, NULL, talk, NULL);
    time_t until = time(NULL) + seconds;
    unsigned turn = 0;
    while (time(NULL) < until) {
        int i = (int)(turn++ % PAIRS);
        struct timespec pause = {0, 100000};
        nanosleep(&pause, NULL);
        loop_hold(loop);
        int back = loop_handed_back(loop);
        for (int number = 0; number < back; number++) {
            unsigned char *octets, *from;
            int size, descriptor = loop_packet(loop, number, &octets, &size, &from);
            looked += (uint64_t)(size > 0 && descriptor >= 0);
        }
        loop_taken(loop);
        loop_noted(loop, noted, 64);
        for (int each = 0; each < PAIRS; each++)
            if (!flows[each].open) {
                flows[each].open = 1;
                loop_reopen(loop, inputs[each]);
            }
        loop_release(loop);
        if (turn % 5 == 0) { /* as when a peer has latched, or a side was closed */
            loop_hold(loop);
            loop_watch(loop, inputs[i], NULL);
            loop_release(loop);
            loop_hold(loop);
            flows[i].open = 1;
            flows[i].muxed = !flows[i].muxed;
            if (loop_watch(loop, inputs[i], &flows[i]))
                return 2;
            loop_release(loop);
        }
        if (turn % 64 == 0) {
            loop_hold(loop);
            loop_set_time(loop, turn % 128 ? -1.0 : 1000.0 + turn);
            loop_release(loop);
        }
    }
    atomic_store(&ended, 1);
    pthread_join(talker, NULL);
    loop_stop(loop);
    looked += (uint64_t)loop_handed_back(loop);
    for (int i = 0; i < PAIRS; i++) {
        carried += counts[i].packets;
        handed_back += flows[i].handed_back;
    }
    loop_free(loop);
    printf("carried=%llu looked=%llu\n", (unsigned long long)carried, (unsigned long long)looked);
    return looked == handed_back ? 0 : 1;
}

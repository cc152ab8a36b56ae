// Threads that wait in the usual system calls, each below three functions of its own.
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define OWN __attribute__((noinline, noclone))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
static int pipes[2];

static volatile int sink;

OWN int wait_in_lock(int n) { return pthread_mutex_lock(&lock) + n; }
OWN int wait_in_read(int n) { char c[64]; long got = read(pipes[0], c, sizeof c); return (int)got + n; }
OWN int wait_in_poll(int n) { struct pollfd one = {pipes[0], POLLIN, 0}; return poll(&one, 1, -1) + n; }
OWN int wait_in_sleep(int n) { struct timespec t = {100000, 0}; return nanosleep(&t, 0) + n; }
OWN int wait_in_cond(int n) {
    static pthread_mutex_t own = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&own);
    return pthread_cond_wait(&never, &own) + n;
}
OWN int wait_in_epoll(int n) {
    struct epoll_event e[8];
    int own = epoll_create1(0);
    // A debugger that attaches ends the wait.
    while (epoll_wait(own, e, 8, -1) < 0) {}
    return n;
}
OWN int wait_in_accept(int n) {
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int s = socket(AF_INET, SOCK_STREAM, 0);
    bind(s, (struct sockaddr *)&any, sizeof any);
    listen(s, 1);
    return accept(s, 0, 0) + n;
}

OWN int middle(int (*wait)(int), int n) { volatile char room[200]; room[n] = 1; return wait(n) + room[n]; }

// Its frame has a size that only its frame pointer remembers.
OWN int variable(int (*wait)(int), int n) { volatile char room[n + 100]; room[n] = 1; return middle(wait, n) + room[n]; }

OWN void *outer(void *wait) { sink = variable(wait, sink & 7) + 1; return 0; }

int main(void) {
    int (*waits[])(int) = {wait_in_lock, wait_in_read, wait_in_poll, wait_in_sleep, wait_in_cond, wait_in_epoll, wait_in_accept};
    pthread_t thread;
    if (pipe(pipes)) return 1;
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < sizeof waits / sizeof *waits; i++) pthread_create(&thread, 0, outer, waits[i]);
    pthread_join(thread, 0);
    return 0;
}

// Threads that wait in the usual system calls, each below three functions of its own. Images, all with -O2 -pthread:
// c-fp: -fno-omit-frame-pointer; c-nofp: -fomit-frame-pointer; c-static: -static; c-static-pie: -static-pie; c-musl: musl-gcc;
// c-musl-static, musl-aarch64: -static with musl; c-notables: -fno-asynchronous-unwind-tables -fno-unwind-tables;
// c-pac-aarch64: -mbranch-protection=standard, on a processor that signs return addresses.
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
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

// Its handler waits on a stack of its own. What it has interrupted is no call.
OWN void handler(int number) { sink += number; struct timespec t = {100000, 0}; nanosleep(&t, 0); }
OWN int interrupted(int n) {
    volatile int *nothing = 0;
    return *nothing + n;
}
OWN int wait_in_signal(int n) {
    stack_t own = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    sigaltstack(&own, 0);
    sigaction(SIGSEGV, &action, 0);
    return interrupted(n) + n;
}
// More calls than are shown.
OWN int deep(int n) { volatile int own = n; return (n < 200 ? deep(n + 1) : wait_in_sleep(n)) ^ own; }
OWN int wait_deep(int n) { return deep(n) + n; }

OWN int middle(int (*wait)(int), int n) { volatile char room[200]; room[n] = 1; return wait(n) + room[n]; }

// Its frame has a size that only its frame pointer remembers.
OWN int variable(int (*wait)(int), int n) { volatile char room[n + 100]; room[n] = 1; return middle(wait, n) + room[n]; }

OWN void *outer(void *wait) {
    int (*below)(int (*)(int), int) = wait == wait_in_poll || wait == wait_in_lock ? variable : middle;
    sink = below(wait, sink & 7) + 1;
    return 0;
}

int main(void) {
    int (*waits[])(int) = {wait_in_lock, wait_in_read, wait_in_poll, wait_in_sleep, wait_in_cond, wait_in_epoll, wait_in_accept,
                          wait_in_signal, wait_deep};
    pthread_t thread;
    if (pipe(pipes)) return 1;
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < sizeof waits / sizeof *waits; i++) pthread_create(&thread, 0, outer, waits[i]);
    pthread_join(thread, 0);
    return 0;
}

// A server with eight workers.
//
// /order takes the lock of the ledger; after /audit, a thread has it and never releases it. /report asks the backend.
// /forget answers and keeps the connection. Everything else is answered, and the connection closed.

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define WORKERS 8
#define QUEUED 4096

static pthread_mutex_t ledger = PTHREAD_MUTEX_INITIALIZER;
static long orders;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t filled = PTHREAD_COND_INITIALIZER;
static int queue[QUEUED];
static unsigned first, last;

static void check(int result, const char *what) {
    if (result < 0) {
        perror(what);
        exit(1);
    }
}

static struct sockaddr_in at(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

__attribute__((noinline)) static void reserve(void) {
    pthread_mutex_lock(&ledger);
    orders++;
    pthread_mutex_unlock(&ledger);
}

__attribute__((noinline)) static void report(void) {
    struct sockaddr_in address = at(8081);
    char answer[64];
    int backend = socket(AF_INET, SOCK_STREAM, 0);
    if (backend < 0)
        return;
    if (connect(backend, (struct sockaddr *)&address, sizeof address) < 0 || send(backend, "report\n", 7, 0) < 0 ||
        recv(backend, answer, sizeof answer, 0) < 0)
        perror("backend");
    close(backend);
}

static void *audit(void *unused) {
    pthread_mutex_lock(&ledger);
    for (;;)
        sleep(1000);
    return unused;
}

__attribute__((noinline)) static void serve(int connection) {
    static const char answer[] = "HTTP/1.0 200 OK\r\n\r\nok\n";
    char request[4096];
    ssize_t length = recv(connection, request, sizeof request - 1, 0);
    request[length > 0 ? length : 0] = 0;
    if (strstr(request, "/order"))
        reserve();
    else if (strstr(request, "/report"))
        report();
    else if (strstr(request, "/audit")) {
        pthread_t thread;
        check(-pthread_create(&thread, NULL, audit, NULL), "pthread_create");
    }
    if (send(connection, answer, sizeof answer - 1, 0) < 0)
        perror("answer");
    if (!strstr(request, "/forget"))
        close(connection);
}

static void *work(void *unused) {
    for (;;) {
        pthread_mutex_lock(&lock);
        while (first == last)
            pthread_cond_wait(&filled, &lock);
        int connection = queue[first++ % QUEUED];
        pthread_mutex_unlock(&lock);
        serve(connection);
    }
    return unused;
}

int main(void) {
    struct sockaddr_in address = at(8080);
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    signal(SIGPIPE, SIG_IGN);
    check(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), "setsockopt");
    check(bind(listener, (struct sockaddr *)&address, sizeof address), "bind");
    check(listen(listener, 64), "listen");
    for (int i = 0; i < WORKERS; i++) {
        pthread_t thread;
        check(-pthread_create(&thread, NULL, work, NULL), "pthread_create");
    }
    for (;;) {
        int accepted = accept(listener, NULL, NULL);
        if (accepted < 0) {
            // No descriptor is left.
            usleep(100000);
            continue;
        }
        pthread_mutex_lock(&lock);
        queue[last++ % QUEUED] = accepted;
        pthread_cond_signal(&filled);
        pthread_mutex_unlock(&lock);
    }
}

// A program for `cargo xtask bench stacks`: all threads wait for a lock, and a socket is in CLOSE_WAIT.
// Arguments: number of threads, last byte of its address.

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int check(int result, const char *what) {
    if (result < 0) {
        perror(what);
        exit(1);
    }
    return result;
}

__attribute__((noinline)) static void reserve(void) {
    pthread_mutex_lock(&lock);
    pthread_mutex_unlock(&lock);
}

static void *serve(void *unused) {
    reserve();
    return unused;
}

int main(int count, char **arguments) {
    int threads = count == 3 ? atoi(arguments[1]) : 0;
    struct sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(0x7f4f0000 + atoi(arguments[2]));
    socklen_t len = sizeof address;
    int listener = check(socket(AF_INET, SOCK_STREAM, 0), "socket");
    check(bind(listener, (struct sockaddr *)&address, len), "bind");
    check(listen(listener, 8), "listen");
    check(getsockname(listener, (struct sockaddr *)&address, &len), "getsockname");
    int client = check(socket(AF_INET, SOCK_STREAM, 0), "socket");
    check(connect(client, (struct sockaddr *)&address, len), "connect");
    check(accept(listener, NULL, NULL), "accept");
    close(client);
    pthread_mutex_lock(&lock);
    for (int number = 1; number < threads; number++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve, NULL) != 0)
            exit(1);
    }
    puts("ready");
    fflush(stdout);
    reserve();
}

// Attaches a program that does nothing until SIGINT ends this process.

#include "attach.h"

#include <signal.h>
#include <stdio.h>

static long check(long result, const char *what) {
    if (result < 0) {
        perror(what);
        exit(1);
    }
    return result;
}

int main(void) {
    // A shell without job control starts programs that ignore it.
    signal(SIGINT, SIG_DFL);
    attach_empty();
    for (;;)
        pause();
}

// The load of `cargo xtask bench instructions`, in a guest whose clock counts instructions.
// Arguments: connections of each round, rounds of each load, the agent.
// It prints `closewait-bench: PHASE LOAD WHAT INSTRUCTIONS RUNS` for each round: PHASE is `empty` (an empty program is attached) or
// `agent`; WHAT is a kernel program, or `agent` for the CPU time of its threads. Numbers are those of the whole round.

#include "attach.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>

// Connections before the first round of a load: caches of the kernel's allocators fill up.
#define WARM_UP 200
// More than the agent and this program load.
#define MAX_PROGRAMS 32
// Ports of one load: few connections of a round for each.
#define MAX_PORTS 250
#define OUTPUT "/tmp/agent.json"

struct program {
    char name[BPF_OBJ_NAME_LEN];
    unsigned long long time, runs;
};

struct counts {
    struct program programs[MAX_PROGRAMS];
    int count;
    unsigned long long agent;
};

struct load {
    const char *name;
    int family;
    int server_closes_first;
    int ports;
};

// A server that the client leaves, over IPv4 and IPv6; a client that the server leaves. With one port its flow is busy: the kernel program
// counts its sockets. With many ports each socket has a record.
static const struct load loads[] = {
    {"accepted", AF_INET, 0, 1},
    {"accepted-ipv6", AF_INET6, 0, 1},
    {"connected", AF_INET, 1, 1},
    {"accepted-quiet", AF_INET, 0, MAX_PORTS},
    {"connected-quiet", AF_INET, 1, MAX_PORTS},
};
static pid_t agent;

static long check(long result, const char *what) {
    if (result < 0) {
        perror(what);
        printf("closewait-vm: trouble %s failed\n", what);
        exit(1);
    }
    return result;
}

// CPU time of all threads of the agent, nanoseconds: the first number of schedstat.
static unsigned long long agent_time(void) {
    char path[300];
    snprintf(path, sizeof(path), "/proc/%d/task", agent);
    DIR *tasks = opendir(path);
    unsigned long long sum = 0;
    for (struct dirent *task; tasks && (task = readdir(tasks));) {
        unsigned long long time;
        snprintf(path, sizeof(path), "/proc/%d/task/%s/schedstat", agent, task->d_name);
        FILE *file = task->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (file && fscanf(file, "%llu", &time) == 1)
            sum += time;
        if (file)
            fclose(file);
    }
    if (tasks)
        closedir(tasks);
    return sum;
}

// Reads the counters of all programs that are loaded.
static void read_counts(struct counts *counts) {
    counts->count = 0;
    counts->agent = agent ? agent_time() : 0;
    for (union bpf_attr next = {0}; bpf(BPF_PROG_GET_NEXT_ID, &next) == 0; next.start_id = next.next_id) {
        union bpf_attr by_id = {.prog_id = next.next_id};
        int program = check(bpf(BPF_PROG_GET_FD_BY_ID, &by_id), "BPF_PROG_GET_FD_BY_ID");
        struct bpf_prog_info info = {0};
        union bpf_attr get = {
            .info = {.bpf_fd = program, .info_len = sizeof(info), .info = (unsigned long)&info},
        };
        check(bpf(BPF_OBJ_GET_INFO_BY_FD, &get), "BPF_OBJ_GET_INFO_BY_FD");
        close(program);
        check(counts->count < MAX_PROGRAMS ? 0 : -1, "counting programs");
        struct program *one = &counts->programs[counts->count++];
        memcpy(one->name, info.name, sizeof(one->name));
        one->time = info.run_time_ns;
        one->runs = info.run_cnt;
    }
}

// Reads the end of the stream.
static void read_end(int socket) {
    char byte;
    check(read(socket, &byte, 1) == 0 ? 0 : -1, "reading the end of a stream");
}

struct listener {
    int socket;
    struct sockaddr_storage address;
    socklen_t length;
};

// One connection. Loopback delivers within the calls, so the end that closes second is in CLOSE_WAIT when the other has closed.
static void connection(const struct listener *listener, const struct load *load) {
    int client = check(socket(load->family, SOCK_STREAM, 0), "socket");
    check(connect(client, (struct sockaddr *)&listener->address, listener->length), "connect");
    if (!load->server_closes_first)
        close(client);
    int server = check(accept(listener->socket, NULL, NULL), "accept");
    if (!load->server_closes_first) {
        read_end(server);
        close(server);
        return;
    }
    close(server);
    read_end(client);
    close(client);
}

static void open_listener(struct listener *listener, int family) {
    *listener = (struct listener){.address = {.ss_family = family}, .length = sizeof(listener->address)};
    struct sockaddr *address = (struct sockaddr *)&listener->address;
    if (family == AF_INET)
        ((struct sockaddr_in *)address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else
        ((struct sockaddr_in6 *)address)->sin6_addr = in6addr_loopback;
    listener->socket = check(socket(family, SOCK_STREAM, 0), "socket");
    check(bind(listener->socket, address, listener->length), "bind");
    check(listen(listener->socket, 128), "listen");
    check(getsockname(listener->socket, address, &listener->length), "getsockname");
}

static void connections(const struct listener *listeners, const struct load *load, int count) {
    for (int i = 0; i < count; i++)
        connection(&listeners[i % load->ports], load);
}

static void print(const char *phase, const struct load *load, const char *what, unsigned long long time, unsigned long long runs) {
    printf("closewait-bench: %s %s %s %llu %llu\n", phase, load->name, what, time, runs);
}

// Runs all rounds of a load and prints the counters of each.
static void measure(const char *phase, const struct load *load, int count, int rounds) {
    static struct counts before, after;
    static struct listener listeners[MAX_PORTS];
    for (int i = 0; i < load->ports; i++)
        open_listener(&listeners[i], load->family);
    connections(listeners, load, WARM_UP);
    // The agent reads the first records of a busy flow, and has the others counted.
    usleep(300000);
    connections(listeners, load, WARM_UP);
    for (int round = 0; round < rounds; round++) {
        // The agent handles the records of the round before. Waiting takes no time: the guest's clock jumps ahead.
        usleep(300000);
        read_counts(&before);
        connections(listeners, load, count);
        usleep(300000);
        read_counts(&after);
        for (int i = 0; i < after.count && i < before.count; i++) {
            struct program *a = &before.programs[i], *b = &after.programs[i];
            if (!strcmp(a->name, b->name) && b->runs > a->runs)
                print(phase, load, b->name, b->time - a->time, b->runs - a->runs);
        }
        if (agent)
            print(phase, load, "agent", after.agent - before.agent, count);
    }
    for (int i = 0; i < load->ports; i++)
        close(listeners[i].socket);
}

// Starts the agent and waits until it has printed its first event.
static void start_agent(char *binary) {
    agent = check(fork(), "fork");
    if (agent == 0) {
        int output = check(open(OUTPUT, O_WRONLY | O_CREAT | O_TRUNC, 0644), "open " OUTPUT);
        dup2(output, STDOUT_FILENO);
        execl(binary, binary, "run", "--output", "json", (char *)NULL);
        check(-1, "execl");
    }
    char text[64] = {0};
    for (int waited = 0; !strstr(text, "\"event\":\"start\""); waited++) {
        check(waited < 600 && waitpid(agent, NULL, WNOHANG) == 0 ? 0 : -1, "starting the agent");
        usleep(100000);
        FILE *file = fopen(OUTPUT, "r");
        if (file) {
            text[fread(text, 1, sizeof(text) - 1, file)] = 0;
            fclose(file);
        }
    }
    // Its scans at the start.
    sleep(3);
}

int main(int argc, char **argv) {
    check(argc == 4 ? 0 : -1, "reading the arguments");
    int count = atoi(argv[1]), rounds = atoi(argv[2]);
    size_t kinds = sizeof(loads) / sizeof(loads[0]);
    int stats = check(open("/proc/sys/kernel/bpf_stats_enabled", O_WRONLY), "open bpf_stats_enabled");
    check(write(stats, "1", 1), "write bpf_stats_enabled");
    setvbuf(stdout, NULL, _IOLBF, 0);
    int link = attach_empty();
    for (size_t i = 0; i < kinds; i++)
        measure("empty", &loads[i], count, rounds);
    close(link);
    start_agent(argv[3]);
    for (size_t i = 0; i < kinds; i++)
        measure("agent", &loads[i], count, rounds);
    kill(agent, SIGKILL);
    return 0;
}

// A BPF program that does nothing, at the tracepoint and of the type that closewait's program has (tp_btf/inet_sock_set_state).
// The file that includes this defines check().

#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/btf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// Where the kernel describes its types.
#define BTF "/sys/kernel/btf/vmlinux"
// The typedef of the tracepoint's function: its parameters are those of a program there.
#define TRACEPOINT "btf_trace_inet_sock_set_state"

// Ends this program with a message if the result is negative, else returns it.
static long check(long result, const char *what);

static long bpf(int command, union bpf_attr *attr) {
    return syscall(SYS_bpf, command, attr, sizeof(*attr));
}

// Bytes of a type after its struct btf_type.
static size_t more(const struct btf_type *type) {
    size_t count = BTF_INFO_VLEN(type->info);
    switch (BTF_INFO_KIND(type->info)) {
    case BTF_KIND_INT:
        return sizeof(__u32);
    case BTF_KIND_ARRAY:
        return sizeof(struct btf_array);
    case BTF_KIND_STRUCT:
    case BTF_KIND_UNION:
        return count * sizeof(struct btf_member);
    case BTF_KIND_ENUM:
        return count * sizeof(struct btf_enum);
    case BTF_KIND_FUNC_PROTO:
        return count * sizeof(struct btf_param);
    case BTF_KIND_VAR:
        return sizeof(struct btf_var);
    case BTF_KIND_DATASEC:
        return count * sizeof(struct btf_var_secinfo);
    case BTF_KIND_DECL_TAG:
        return sizeof(struct btf_decl_tag);
    case BTF_KIND_ENUM64:
        return count * sizeof(struct btf_enum64);
    default:
        return 0;
    }
}

// Returns the id of the tracepoint's typedef in the kernel's BTF, or -1.
static long tracepoint_id(void) {
    int file = check(open(BTF, O_RDONLY), "open " BTF);
    struct stat status;
    check(fstat(file, &status), "fstat");
    char *btf = malloc(status.st_size);
    check(btf ? 0 : -1, "malloc");
    // The kernel returns a page at a time.
    for (long got = 0, bytes; got < status.st_size; got += bytes) {
        bytes = check(read(file, btf + got, status.st_size - got), "read " BTF);
        check(bytes ? 0 : -1, BTF " is shorter than its size");
    }
    close(file);
    struct btf_header *header = (struct btf_header *)btf;
    const char *strings = btf + header->hdr_len + header->str_off;
    const char *at = btf + header->hdr_len + header->type_off, *end = at + header->type_len;
    long found = -1;
    // Id 0 is void, which BTF has no entry for.
    for (long id = 1; at < end && found < 0; id++) {
        const struct btf_type *type = (const struct btf_type *)at;
        if (BTF_INFO_KIND(type->info) == BTF_KIND_TYPEDEF && !strcmp(strings + type->name_off, TRACEPOINT))
            found = id;
        at += sizeof(*type) + more(type);
    }
    free(btf);
    return found;
}

// Attaches the program. It ends with the descriptor that this returns.
static int attach_empty(void) {
    struct bpf_insn code[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0},
        {.code = BPF_JMP | BPF_EXIT},
    };
    union bpf_attr load = {
        .prog_type = BPF_PROG_TYPE_TRACING,
        .expected_attach_type = BPF_TRACE_RAW_TP,
        .attach_btf_id = check(tracepoint_id(), "finding " TRACEPOINT " in " BTF),
        .insn_cnt = sizeof(code) / sizeof(code[0]),
        .insns = (unsigned long)code,
        .license = (unsigned long)"GPL",
        .prog_name = "empty",
    };
    int program = check(bpf(BPF_PROG_LOAD, &load), "BPF_PROG_LOAD");
    // The program's type names the tracepoint.
    union bpf_attr open = {.raw_tracepoint = {.prog_fd = program}};
    int link = check(bpf(BPF_RAW_TRACEPOINT_OPEN, &open), "BPF_RAW_TRACEPOINT_OPEN");
    close(program);
    return link;
}

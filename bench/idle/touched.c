/* Runs a program with a breakpoint on each of its functions, and writes down those that are called, in the order of their
 * first call:
 *
 *     touched SYMBOLS OUT PROGRAM ARGUMENT…
 *
 * SYMBOLS has a line `ADDRESS NAME` for each function, as nm prints them, sorted by address. Threads are followed; a process that
 * the program starts is let go when it executes something. x86-64 only.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

struct function {
    unsigned long address;
    char *name;
    unsigned char code;
    int armed, called;
};

static struct function *functions;
static size_t count;

static void load(const char *path) {
    FILE *file = fopen(path, "r");
    char name[8192];
    unsigned long address;
    if (!file) {
        perror(path);
        exit(1);
    }
    while (fscanf(file, "%lx %8191s", &address, name) == 2) {
        if (count && functions[count - 1].address == address) continue;
        if (count % 4096 == 0) functions = realloc(functions, (count + 4096) * sizeof *functions);
        functions[count++] = (struct function){.address = address, .name = strdup(name)};
    }
    fclose(file);
}

static struct function *find(unsigned long address) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (functions[middle].address == address) return &functions[middle];
        if (functions[middle].address < address) low = middle + 1;
        else high = middle;
    }
    return NULL;
}

static int memory_of(pid_t pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    return open(path, O_RDWR);
}

/* Where the program was loaded: its first mapping. */
static unsigned long base_of(pid_t pid) {
    char path[64];
    unsigned long base = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    FILE *maps = fopen(path, "r");
    if (!maps || fscanf(maps, "%lx", &base) != 1) exit(1);
    fclose(maps);
    return base;
}

static void arm(pid_t pid, unsigned long base) {
    const unsigned char breakpoint = 0xcc;
    int memory = memory_of(pid);
    for (size_t i = 0; i < count; i++) {
        off_t at = (off_t)(base + functions[i].address);
        functions[i].armed = pread(memory, &functions[i].code, 1, at) == 1 && pwrite(memory, &breakpoint, 1, at) == 1;
    }
    close(memory);
}

/* Puts the code back in whoever ran into it: a forked child has a copy of the breakpoints. */
static int called(pid_t pid, unsigned long base, FILE *out) {
    struct user_regs_struct registers;
    if (ptrace(PTRACE_GETREGS, pid, NULL, &registers)) return 0;
    struct function *function = find(registers.rip - 1 - base);
    if (!function || !function->armed) return 0;
    int memory = memory_of(pid);
    if (pwrite(memory, &function->code, 1, (off_t)(base + function->address)) != 1) exit(1);
    close(memory);
    if (!function->called) fprintf(out, "%s\n", function->name);
    function->called = 1;
    registers.rip--;
    ptrace(PTRACE_SETREGS, pid, NULL, &registers);
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: touched SYMBOLS OUT PROGRAM ARGUMENT...\n");
        return 64;
    }
    load(argv[1]);
    FILE *out = fopen(argv[2], "w");
    if (!out) {
        perror(argv[2]);
        return 1;
    }
    setvbuf(out, NULL, _IOLBF, 0);
    pid_t program = fork();
    if (program == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        execv(argv[3], argv + 3);
        _exit(127);
    }
    int status, armed = 0;
    unsigned long base = 0;
    waitpid(program, &status, 0);
    long follow = PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
    ptrace(PTRACE_SETOPTIONS, program, NULL, follow);
    ptrace(PTRACE_CONT, program, NULL, NULL);
    for (;;) {
        pid_t who = waitpid(-1, &status, __WALL);
        if (who < 0) return 1;
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (who == program) return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
            continue;
        }
        int signal = WSTOPSIG(status), event = status >> 16;
        if (event == PTRACE_EVENT_EXEC && who != program) {
            ptrace(PTRACE_DETACH, who, NULL, NULL);
            continue;
        }
        if (event == PTRACE_EVENT_EXEC && !armed) {
            armed = 1;
            base = base_of(who);
            arm(who, base);
        }
        int ours = event || signal == SIGSTOP || (signal == SIGTRAP && called(who, base, out));
        ptrace(PTRACE_CONT, who, NULL, (long)(ours ? 0 : signal));
    }
}

/* What a debugger looks for in an XNU kernel, with the names that it has there, and just enough
   to run: a processor that idles, system calls that make processes and set attributes of files, a
   timer that enters the debugger, an extension that comes and goes. */

typedef unsigned long long uint64_t;
typedef unsigned int uint32_t;

struct proc {
    struct proc *p_next;
    struct proc *p_pptr;
    int p_pid;
    int p_stat;
    char p_comm[17];
};

typedef struct proc *proc_t;

struct processor {
    int cpu_id;
    struct proc *active;
    uint64_t idle_count;
};

struct vnode {
    int v_type;
};

struct vnop_setxattr_args {
    void *a_desc;
    struct vnode *a_vp;
    const char *a_name;
    void *a_uio;
    int a_options;
    void *a_context;
};

struct OSKextLoadedKextSummary {
    char name[64];
    unsigned char uuid[16];
    uint64_t address;
    uint64_t size;
    uint64_t version;
    uint32_t loadTag;
    uint32_t flags;
    uint64_t reference_list;
    uint64_t text_exec_address;
    uint64_t text_exec_size;
};

struct OSKextLoadedKextSummaryHeader {
    uint32_t version;
    uint32_t entry_size;
    uint32_t numSummaries;
    uint32_t reserved;
    struct OSKextLoadedKextSummary summaries[4];
};

char version[] = "Darwin Kernel Version 24.6.0: Synthetic; root:xnu-11417.101.15~1/RELEASE_X86_64";
struct proc initproc;
struct proc kernproc = {&initproc, &kernproc, 0, 2, "kernel_task"};
struct proc initproc = {0, &kernproc, 1, 2, "launchd"};
proc_t allproc = &kernproc;
struct proc proc_table[8];
int nprocs = 2;
struct vnode rootvnode = {2};
int vnop_setxattr_desc;
struct processor cpu_data = {0, &kernproc, 0};

struct msgbuf {
    int msg_magic;
    int msg_size;
    int msg_bufx;
    int msg_bufr;
    char *msg_bufc;
};

/* What was printed has gone over the end once. */
char log_text[42] = "DB: registering debugger\nIOKernelDebuggerK";
struct msgbuf log = {0x063061, sizeof log_text, 25, 0, log_text};
struct msgbuf *msgbufp = &log;

/* The machine fills this in, as a booter would. */
struct OSKextLoadedKextSummaryHeader loaded_kext_summaries = {2, sizeof(struct OSKextLoadedKextSummary)};
struct OSKextLoadedKextSummaryHeader *gLoadedKextSummaries = &loaded_kext_summaries;

__attribute__((used)) static volatile unsigned kdp_reentry_deadline;

__attribute__((section("__KLD,__text"), used)) static int kld_bootstrap(void) {
    return 0;
}

void OSKextLoadedKextSummariesUpdated(void) {
}

void kdp_ml_enter_debugger(void) {
    __asm__ volatile("int3");
}

static void kdp_ml_enter_debugger_wrapper(void *param0, void *param1) {
    kdp_ml_enter_debugger();
}

/* Where a timer's interrupt goes. */
__attribute__((naked, used)) void hndl_timer(void) {
    __asm__ volatile(
        "push %rax; push %rcx; push %rdx; push %rsi; push %rdi;"
        "push %r8; push %r9; push %r10; push %r11; push %rbp; mov %rsp, %rbp;"
        "call _kdp_timer_callout;"
        "pop %rbp; pop %r11; pop %r10; pop %r9; pop %r8;"
        "pop %rdi; pop %rsi; pop %rdx; pop %rcx; pop %rax; popfq; ret");
}

__attribute__((used)) void kdp_timer_callout(void) {
    kdp_ml_enter_debugger_wrapper(0, 0);
}

proc_t forkproc(proc_t parent_proc) {
    proc_t child_proc = &proc_table[nprocs & 7];
    child_proc->p_pptr = parent_proc;
    child_proc->p_pid = ++nprocs;
    child_proc->p_stat = 1;
    for (int i = 0; i < 17; i++) {
        child_proc->p_comm[i] = parent_proc->p_comm[i];
    }
    child_proc->p_next = allproc;
    return child_proc;
}

proc_t cloneproc(proc_t parent_proc, int memstat_internal) {
    proc_t child_proc = forkproc(parent_proc);
    child_proc->p_stat = 2 + memstat_internal;
    return child_proc;
}

int fork1(proc_t parent_proc) {
    return cloneproc(parent_proc, 0)->p_pid;
}

int fork(proc_t parent_proc, int *retval) {
    *retval = fork1(parent_proc);
    return 0;
}

int hfs_vnop_setxattr(struct vnop_setxattr_args *ap) {
    return ap->a_vp->v_type + ap->a_options;
}

int VNOP_SETXATTR(struct vnode *vp, const char *name, void *uio, int options) {
    struct vnop_setxattr_args a;
    a.a_desc = &vnop_setxattr_desc;
    a.a_vp = vp;
    a.a_name = name;
    a.a_uio = uio;
    a.a_options = options;
    a.a_context = 0;
    return hfs_vnop_setxattr(&a);
}

int vn_setxattr(struct vnode *vp, const char *name, void *uio, int options) {
    return VNOP_SETXATTR(vp, name, uio, options);
}

int setxattr(proc_t p, int *retval) {
    *retval = vn_setxattr(&rootvnode, "com.apple.quarantine", 0, p->p_stat);
    return 0;
}

void unix_syscall64(proc_t p, int code) {
    int retval = 0;
    if (code == 2) {
        fork(p, &retval);
    }
    if (code == 236) {
        setxattr(p, &retval);
    }
}

void machine_idle(void) {
    __asm__ volatile("hlt");
}

proc_t processor_idle(proc_t thread, struct processor *processor) {
    processor->idle_count++;
    machine_idle();
    return thread;
}

void update_kexts(void);

void idle_thread(void *parameter) {
    for (;;) {
        processor_idle(0, &cpu_data);
        if ((cpu_data.idle_count & 7) == 0) {
            unix_syscall64(&initproc, 2);
        }
        if ((cpu_data.idle_count & 7) == 4) {
            unix_syscall64(&initproc, 236);
        }
        update_kexts();
    }
}

void call_continuation(void) {
    idle_thread(0);
}

/* The machine starts here, and is in the debugger first (boot-arg debug=1). */
void kernel_bootstrap(void) {
    kdp_ml_enter_debugger();
    call_continuation();
}

#include "kmod.h"

/* What the kernel knows of the one extension there is. The machine says where its image is. */
struct OSKext {
    void *vtable;
    uint64_t retain_count;
    void *dictionaries[9];
    struct kmod_info *kmod_info;
} example_kext;

/* How many extensions are to be loaded, one at most; with 2 it is loaded and unloaded all the time. A
   debugger writes it: there is no kextload. */
volatile int wanted_kexts;

/* The machine puts the image of the extension into memory, or takes it out of there. */
static void map_kext(int loaded) {
    __asm__ volatile("vmcall" : : "a"(loaded) : "memory");
}

static void OSKext_updateLoadedKextSummaries(uint32_t count) {
    gLoadedKextSummaries = 0;
    loaded_kext_summaries.numSummaries = count;
    gLoadedKextSummaries = &loaded_kext_summaries;
    OSKextLoadedKextSummariesUpdated();
}

__attribute__((used)) int OSRuntimeFinalizeCPP(struct OSKext *kext) __asm__("__Z20OSRuntimeFinalizeCPPP6OSKext");

int OSRuntimeFinalizeCPP(struct OSKext *kext) {
    return kext->kmod_info->reference_count;
}

void OSKext_load(struct OSKext *kext) {
    map_kext(1);
    OSKext_updateLoadedKextSummaries(1);
    kext->kmod_info->start(kext->kmod_info, 0);
}

void OSKext_unload(struct OSKext *kext) {
    kext->kmod_info->stop(kext->kmod_info, 0);
    OSRuntimeFinalizeCPP(kext);
    map_kext(0);
    OSKext_updateLoadedKextSummaries(0);
}

void kexts_are_as_wanted(void) {
}

void update_kexts(void) {
    int loaded = loaded_kext_summaries.numSummaries;
    if (loaded == wanted_kexts) {
        return;
    }
    if (!loaded) {
        OSKext_load(&example_kext);
    } else {
        OSKext_unload(&example_kext);
    }
    kexts_are_as_wanted();
}

/* What the kernel and an extension know of the extension. The machine fills it in, as the kernel's linker
   does. */

#pragma pack(push, 4)
struct kmod_info {
    struct kmod_info *next;
    int info_version;
    unsigned id;
    char name[64];
    char version[64];
    int reference_count;
    void *reference_list;
    unsigned long long address;
    unsigned long long size;
    unsigned long long hdr_size;
    int (*start)(struct kmod_info *ki, void *data);
    int (*stop)(struct kmod_info *ki, void *data);
};
#pragma pack(pop)

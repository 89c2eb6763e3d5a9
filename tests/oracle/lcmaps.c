/*
 * Asks the LCMAPS that is installed here; the tests compare its answers with ours.
 *
 *   lcmaps [-l LOG] init                          reads LCMAPS_DB_FILE: "ready", or "broken" with exit code 1
 *   lcmaps [-l LOG] pem POLICY FILE               maps the proxy in FILE
 *   lcmaps [-l LOG] names POLICY DN [FQAN]...     maps names, for policies that verify nothing
 *
 * The mapping is one line, "uid=N gid=N groups=N,N", or "denied" with exit code 1. Codes from 2 on are troubles of
 * this program. The library is loaded at run time, so that building needs none of its headers.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#define LIBRARY "liblcmaps.so.0"

/* What LCMAPS hands back; it allocates the lists. */
struct answer {
    uid_t uid;
    gid_t *primary, *secondary;
    int primaries, secondaries;
    char *lease;
};

typedef int init_fn(FILE *log);
typedef int end_fn(void);
typedef int pem_fn(char *dn, char *pem, int count, char *job, int policies, char **names, uid_t *uid,
                   gid_t **primary, int *primaries, gid_t **secondary, int *secondaries, char **lease);
typedef int names_fn(char *dn, char **fqans, int number, char *job, int policies, char **names, uid_t *uid,
                     gid_t **primary, int *primaries, gid_t **secondary, int *secondaries, char **lease);

static void *library;

static void *symbol(const char *name)
{
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "%s: %s is missing\n", LIBRARY, name);
        exit(3);
    }
    return found;
}

static char *contents(const char *path)
{
    static char text[1 << 18];
    FILE *file = fopen(path, "r");
    if (!file) {
        perror(path);
        exit(2);
    }
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    return text;
}

static int print(const struct answer *a)
{
    printf("uid=%lu gid=%ld groups=", (unsigned long)a->uid, a->primaries ? (long)a->primary[0] : -1L);
    for (int i = 0; i < a->secondaries; i++)
        printf("%s%lu", i ? "," : "", (unsigned long)a->secondary[i]);
    printf("\n");
    return 0;
}

static int map(int count, char **argument)
{
    struct answer a = {.uid = (uid_t)-1};
    char *policy[] = {argument[1]};
    int refused;

    if (strcmp(argument[0], "pem") == 0) {
        pem_fn *run = symbol("lcmaps_run_with_pem_and_return_account");
        refused = run(NULL, contents(argument[2]), 0, "", 1, policy, &a.uid, &a.primary, &a.primaries,
                      &a.secondary, &a.secondaries, &a.lease);
    } else {
        names_fn *run = symbol("lcmaps_run_with_fqans_and_return_account");
        refused = run(argument[2], argument + 3, count - 3, "", 1, policy, &a.uid, &a.primary, &a.primaries,
                      &a.secondary, &a.secondaries, &a.lease);
    }
    if (!refused)
        return print(&a);
    printf("denied\n");
    return 1;
}

int main(int count, char **argument)
{
    const char *log = "/dev/null";
    if (count > 2 && strcmp(argument[1], "-l") == 0) {
        log = argument[2];
        argument += 2;
        count -= 2;
    }
    int init_only = count == 2 && strcmp(argument[1], "init") == 0;
    if (!init_only && (count < 4 || (strcmp(argument[1], "pem") && strcmp(argument[1], "names")))) {
        fprintf(stderr, "see the head of this program's source\n");
        return 2;
    }
    /* Plug-ins find the library's symbols in the program's own name space. */
    library = dlopen(LIBRARY, RTLD_NOW | RTLD_GLOBAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 3;
    }
    FILE *file = fopen(log, "a");
    if (!file) {
        perror(log);
        return 2;
    }
    if (((init_fn *)symbol("lcmaps_init"))(file)) {
        printf("broken\n");
        return 1;
    }
    int code = 0;
    if (init_only)
        printf("ready\n");
    else
        code = map(count - 1, argument + 1);
    ((end_fn *)symbol("lcmaps_term"))();
    return code;
}

/* Loaded into a process before its C library: writes every name that is looked up, and every address beyond this machine
   that is connected or sent to, into the file NAMES_LOG, whatever language the caller is written in. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void note(const char *what, const char *name) {
    const char *log = getenv("NAMES_LOG");
    char line[600];
    int length, file;
    if (!log) return;
    length = snprintf(line, sizeof line, "%s %s\n", what, name ? name : "");
    file = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (file < 0) abort();
    if (write(file, line, length) != length) abort();
    close(file);
}

#define ORIGINAL(name) ({ static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name); real; })

/* A number is no name, and NULL is this machine. */
static int is_number(const char *name) {
    unsigned char room[16];
    return !name || inet_pton(AF_INET, name, room) == 1 || inet_pton(AF_INET6, name, room) == 1;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result) {
    if (!is_number(node)) note("getaddrinfo", node);
    return ORIGINAL(getaddrinfo)(node, service, hints, result);
}

struct hostent *gethostbyname(const char *name) {
    if (!is_number(name)) note("gethostbyname", name);
    return ORIGINAL(gethostbyname)(name);
}

int gethostbyname_r(const char *name, struct hostent *host, char *room, size_t size, struct hostent **result, int *error) {
    if (!is_number(name)) note("gethostbyname_r", name);
    return ORIGINAL(gethostbyname_r)(name, host, room, size, result, error);
}

static void note_address(const char *what, const struct sockaddr *address) {
    char text[64] = "";
    if (!address) return;
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *four = (const struct sockaddr_in *)address;
        if ((ntohl(four->sin_addr.s_addr) >> 24) == 127) return;
        inet_ntop(AF_INET, &four->sin_addr, text, sizeof text);
    } else if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)address;
        if (IN6_IS_ADDR_LOOPBACK(&six->sin6_addr)) return;
        inet_ntop(AF_INET6, &six->sin6_addr, text, sizeof text);
    } else {
        return;
    }
    note(what, text);
}

int connect(int socket, const struct sockaddr *address, socklen_t length) {
    note_address("connect", address);
    return ORIGINAL(connect)(socket, address, length);
}

ssize_t sendto(int socket, const void *data, size_t size, int flags, const struct sockaddr *address, socklen_t length) {
    note_address("sendto", address);
    return ORIGINAL(sendto)(socket, data, size, flags, address, length);
}

ssize_t sendmsg(int socket, const struct msghdr *message, int flags) {
    note_address("sendmsg", (const struct sockaddr *)message->msg_name);
    return ORIGINAL(sendmsg)(socket, message, flags);
}

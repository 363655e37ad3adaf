/* A socket, a request written by hand in HTTP/1.0, the body behind the first empty line, sscanf. It believes
Content-Length, and that the connection ends with the answer.

from: C (sockets)
path: /stubs/handler_api.php
calls: balance number waiting ready code again finish cancel bad_key no_numbers bad_service
*/
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char host[64], path[256], body[4096];
static int port;
static const char *key;

static void stop(const char *why) {
    fprintf(stderr, "%s: %s\n", why, body);
    exit(1);
}

static const char *api(const char *action, const char *more) {
    char request[1024], answer[8192];
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    size_t size = 0;
    ssize_t got;
    int connection = socket(AF_INET, SOCK_STREAM, 0);
    inet_pton(AF_INET, host, &to.sin_addr);
    if (connection < 0 || connect(connection, (struct sockaddr *)&to, sizeof to) < 0) stop("connect");
    snprintf(request, sizeof request, "GET %s?api_key=%s&action=%s%s HTTP/1.0\r\nHost: %s\r\n\r\n", path, key, action, more, host);
    if (write(connection, request, strlen(request)) < 0) stop("write");
    while (size < sizeof answer - 1 && (got = read(connection, answer + size, sizeof answer - 1 - size)) > 0) size += got;
    close(connection);
    answer[size] = 0;
    char *found = strstr(answer, "\r\n\r\n"), *length = strcasestr(answer, "\r\ncontent-length:");
    if (strncmp(answer, "HTTP/1.", 7) || strncmp(answer + 8, " 200", 4) || !found || !length) stop("not an answer");
    snprintf(body, sizeof body, "%s", found + 4);
    if (strlen(body) != (size_t)atoi(length + 17)) stop("length");
    return body;
}

static void must(const char *wanted, const char *answer) {
    if (strcmp(wanted, answer)) stop(wanted);
}

static void code(const char *asked, char *found) {
    for (int i = 0; i < 150; i++) {
        const char *answer = api("getStatus", asked);
        if (sscanf(answer, "STATUS_OK:%15[0-9]", found) == 1) return;
        if (strncmp(answer, "STATUS_WAIT_", 12)) stop("unknown");
        usleep(100000);
    }
    stop("no code");
}

int main(int count, char **arguments) {
    char asked[64], first[16], second[16], more[80], paid[64];
    long id, phone;
    double balance;
    if (count < 4 || sscanf(arguments[1], "http://%63[^:]:%d%255s", host, &port, path) != 3) return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    key = arguments[3];
    if (sscanf(api("getBalance", ""), "ACCESS_BALANCE:%lf", &balance) != 1 || balance <= 0) stop("balance");
    puts("ok balance");
    if (sscanf(api("getNumber", "&service=tg&country=6"), "ACCESS_NUMBER:%ld:%ld", &id, &phone) != 2) stop("number");
    puts("ok number");
    snprintf(asked, sizeof asked, "&id=%ld", id);
    must("STATUS_WAIT_CODE", api("getStatus", asked));
    puts("ok waiting");
    snprintf(more, sizeof more, "%s&status=1", asked);
    must("ACCESS_READY", api("setStatus", more));
    puts("ok ready");
    code(asked, first);
    puts("ok code");
    snprintf(more, sizeof more, "%s&status=3", asked);
    must("ACCESS_RETRY_GET", api("setStatus", more));
    code(asked, second);
    if (!strcmp(first, second)) stop("the same code");
    puts("ok again");
    snprintf(more, sizeof more, "%s&status=6", asked);
    must("ACCESS_ACTIVATION", api("setStatus", more));
    puts("ok finish");
    snprintf(paid, sizeof paid, "%s", api("getBalance", ""));
    if (sscanf(api("getNumber", "&service=tg&country=6"), "ACCESS_NUMBER:%ld:%ld", &id, &phone) != 2) stop("number");
    snprintf(more, sizeof more, "&id=%ld&status=8", id);
    must("ACCESS_CANCEL", api("setStatus", more));
    must(paid, api("getBalance", ""));
    puts("ok cancel");
    must("NO_NUMBERS", api("getNumber", "&service=zz&country=204"));
    puts("ok no_numbers");
    must("BAD_SERVICE", api("getNumber", "&service=nonsense&country=6"));
    puts("ok bad_service");
    key = "wrong";
    must("BAD_KEY", api("getBalance", ""));
    puts("ok bad_key");
    return 0;
}

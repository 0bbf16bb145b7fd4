/* An emulated node for benchmarks: one thread, epoll, keep-alive; cheap enough that what stands in front of it is what is measured.
 *
 *   stub --port P [--delay MS] [--first MS] [--interval MS] [--chunks N] [--model NAME]
 *
 * Non-streaming replies leave after --delay; streams send their first of --chunks after --first and the others --interval apart.
 * Every chunk's text is its number and a space ("0 1 2 ..."), so that a lost, doubled or reordered one shows at the other end; the
 * text of a non-streaming reply is the same numbers at once, so a gateway that streams and re-assembles shows the same document.
 * Counters and durations in the final object are the true ones: the node never makes a request wait.
 * GET /stub/stats says how many requests were answered and how much CPU time it cost. Port 0: any; the port is the first line of stdout.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MAX_FDS 16384
#define IN_LIMIT (1 << 20)

enum dialect { CHAT, GENERATE, OPENAI, COMPLETION, DIALECTS };

typedef struct {
    char *in;            /* what has been read and not been answered */
    size_t in_len, in_cap;
    char *out;           /* what could not be written at once */
    size_t out_len, out_cap;
    int open, busy;      /* busy: a reply is under way, the next request waits in `in` */
    int streaming, dialect, sent, usage;
    double due, began;   /* monotonic ms */
    int heap;            /* place in the heap of timers, -1: none */
} Conn;

static Conn conns[MAX_FDS];
static int heap[MAX_FDS], heap_len;
static int ep, timer_fd;
static double armed_for = -1;
static long answered, streams, dropped;
static double delay_ms = 0, first_ms = 5, interval_ms = 5;
static int chunks = 16;
static const char *model = "bench:latest";
static char created[40];
static char document[DIALECTS][8192]; /* non-streaming bodies without their durations */

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

/* ---- timers: a binary heap by due time ---- */
static void place(int i, int fd) { heap[i] = fd; conns[fd].heap = i; }

static void sift(int i) {
    int fd = heap[i];
    while (i > 0 && conns[heap[(i - 1) / 2]].due > conns[fd].due) { place(i, heap[(i - 1) / 2]); i = (i - 1) / 2; }
    for (;;) {
        int k = 2 * i + 1;
        if (k >= heap_len) break;
        if (k + 1 < heap_len && conns[heap[k + 1]].due < conns[heap[k]].due) k++;
        if (conns[heap[k]].due >= conns[fd].due) break;
        place(i, heap[k]);
        i = k;
    }
    place(i, fd);
}

static void timer_set(int fd, double due) {
    conns[fd].due = due;
    if (conns[fd].heap < 0) { heap_len++; place(heap_len - 1, fd); }
    sift(conns[fd].heap);
}

static void timer_clear(int fd) {
    int i = conns[fd].heap;
    if (i < 0) return;
    conns[fd].heap = -1;
    int last = heap[--heap_len];
    if (last != fd) { place(i, last); sift(i); }
}

static void arm(void) {
    double due = heap_len ? conns[heap[0]].due : -1;
    if (due == armed_for) return;
    struct itimerspec spec = {0};
    if (due >= 0) {
        int64_t ns = (int64_t)(due * 1e6);
        spec.it_value.tv_sec = ns / 1000000000;
        spec.it_value.tv_nsec = ns % 1000000000;
        if (!ns) spec.it_value.tv_nsec = 1;
    }
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
    armed_for = due;
}

/* ---- connections ---- */
static void drop(int fd) {
    Conn *c = &conns[fd];
    if (c->busy) dropped++;
    timer_clear(fd);
    free(c->in);
    free(c->out);
    memset(c, 0, sizeof *c);
    c->heap = -1;
    close(fd);
}

static int put(int fd, const char *data, size_t n) {
    Conn *c = &conns[fd];
    if (!c->out_len) {
        ssize_t w = write(fd, data, n);
        if (w < 0 && errno != EAGAIN) { drop(fd); return -1; }
        if (w > 0) { data += w; n -= (size_t)w; }
        if (!n) return 0;
    }
    if (c->out_len + n > c->out_cap) { c->out_cap = (c->out_len + n) * 2; c->out = realloc(c->out, c->out_cap); }
    memcpy(c->out + c->out_len, data, n);
    c->out_len += n;
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.fd = fd};
    epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e);
    return 0;
}

static int reply(int fd, const char *type, const char *body, size_t n, int head) {
    char buf[16384];
    int k = snprintf(buf, sizeof buf, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n", type, n);
    if (!head) { memcpy(buf + k, body, n); k += (int)n; }
    return put(fd, buf, (size_t)k);
}

static int json(int fd, const char *body, int head) { return reply(fd, "application/json; charset=utf-8", body, strlen(body), head); }

/* ---- replies ---- */
static int counters(char *to, size_t cap, double ms) {
    long total = (long)(ms * 1e6) + 2000, prompt = total / 10;
    return snprintf(to, cap,
        "\"done\":true,\"done_reason\":\"stop\",\"total_duration\":%ld,\"load_duration\":1000,\"prompt_eval_count\":20,"
        "\"prompt_eval_duration\":%ld,\"eval_count\":%d,\"eval_duration\":%ld}", total, prompt, chunks, total - prompt - 1000);
}

static int whole(int fd) {
    Conn *c = &conns[fd];
    char body[8192];
    int n = snprintf(body, sizeof body, "%s", document[c->dialect]);
    if (c->dialect == CHAT || c->dialect == GENERATE) n += counters(body + n, sizeof body - (size_t)n, now_ms() - c->began);
    c->busy = 0;
    answered++;
    return reply(fd, c->dialect == CHAT || c->dialect == GENERATE ? "application/json; charset=utf-8" : "application/json", body, (size_t)n, 0);
}

static int event(const Conn *c, int i, char *to, size_t cap) {
    switch (c->dialect) {
    case CHAT:
        return snprintf(to, cap, "{\"model\":\"%s\",\"created_at\":\"%s\",\"message\":{\"role\":\"assistant\",\"content\":\"%d \"},\"done\":false}\n",
                        model, created, i);
    case GENERATE:
        return snprintf(to, cap, "{\"model\":\"%s\",\"created_at\":\"%s\",\"response\":\"%d \",\"done\":false}\n", model, created, i);
    case OPENAI:
        return snprintf(to, cap, "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1795237959,\"model\":\"%s\","
                        "\"system_fingerprint\":\"fp_stub\",\"choices\":[{\"index\":0,\"delta\":{%s\"content\":\"%d \"},\"finish_reason\":null}]}\n\n",
                        model, i ? "" : "\"role\":\"assistant\",", i);
    default:
        return snprintf(to, cap, "data: {\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1795237959,\"model\":\"%s\","
                        "\"system_fingerprint\":\"fp_stub\",\"choices\":[{\"text\":\"%d \",\"index\":0,\"finish_reason\":null}]}\n\n", model, i);
    }
}

static int ending(const Conn *c, char *to, size_t cap) {
    int n;
    switch (c->dialect) {
    case CHAT:
    case GENERATE:
        n = snprintf(to, cap, "{\"model\":\"%s\",\"created_at\":\"%s\",%s,", model, created,
                     c->dialect == CHAT ? "\"message\":{\"role\":\"assistant\",\"content\":\"\"}" : "\"response\":\"\"");
        n += counters(to + n, cap - (size_t)n, now_ms() - c->began);
        to[n++] = '\n';
        return n;
    case OPENAI:
        n = snprintf(to, cap, "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1795237959,\"model\":\"%s\","
                     "\"system_fingerprint\":\"fp_stub\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n", model);
        if (c->usage)
            n += snprintf(to + n, cap - (size_t)n, "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1795237959,"
                          "\"model\":\"%s\",\"system_fingerprint\":\"fp_stub\",\"choices\":[],\"usage\":{\"prompt_tokens\":20,"
                          "\"completion_tokens\":%d,\"total_tokens\":%d}}\n\n", model, chunks, chunks + 20);
        break;
    default:
        n = snprintf(to, cap, "data: {\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1795237959,\"model\":\"%s\","
                     "\"system_fingerprint\":\"fp_stub\",\"choices\":[{\"text\":\"\",\"index\":0,\"finish_reason\":\"stop\"}]}\n\n", model);
    }
    return n + snprintf(to + n, cap - (size_t)n, "data: [DONE]\n\n");
}

/* The next HTTP chunk of a stream, one an event, as Ollama writes them; the ending carries the last chunk of the framing. */
static int next_chunk(int fd, char *buf) {
    Conn *c = &conns[fd];
    char text[2048];
    int k = 0, last = c->sent == chunks;
    int n = last ? ending(c, text, sizeof text) : event(c, c->sent, text, sizeof text);
    if (!c->sent)
        k = sprintf(buf, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n",
                    c->dialect >= OPENAI ? "text/event-stream" : "application/x-ndjson");
    k += sprintf(buf + k, "%x\r\n", n);
    memcpy(buf + k, text, (size_t)n);
    k += n;
    k += sprintf(buf + k, last ? "\r\n0\r\n\r\n" : "\r\n");
    c->sent++;
    return k;
}

/* With an interval of 0 all chunks leave in as few writes as fit: the node is then as cheap streaming as not. */
static int stream_on(int fd) {
    Conn *c = &conns[fd];
    char buf[65536];
    int k = 0;
    do {
        k += next_chunk(fd, buf + k);
    } while (c->sent <= chunks && (interval_ms <= 0 || c->sent == chunks) && k < (int)sizeof buf - 4096);
    if (c->sent > chunks) { c->busy = 0; answered++; streams++; }
    if (put(fd, buf, (size_t)k)) return -1;
    if (c->busy) timer_set(fd, c->due + interval_ms);
    return 0;
}

static void prepare(void) {
    char text[4096];
    int n = 0;
    for (int i = 0; i < chunks && n < 3900; i++) n += snprintf(text + n, sizeof text - (size_t)n, "%d ", i);
    size_t cap = sizeof document[0];
    snprintf(document[CHAT], cap, "{\"model\":\"%s\",\"created_at\":\"%s\",\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},", model, created, text);
    snprintf(document[GENERATE], cap, "{\"model\":\"%s\",\"created_at\":\"%s\",\"response\":\"%s\",", model, created, text);
    snprintf(document[OPENAI], cap, "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1795237959,\"model\":\"%s\",\"system_fingerprint\":"
             "\"fp_stub\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},\"finish_reason\":\"stop\"}],\"usage\":"
             "{\"prompt_tokens\":20,\"completion_tokens\":%d,\"total_tokens\":%d}}\n", model, text, chunks, chunks + 20);
    snprintf(document[COMPLETION], cap, "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1795237959,\"model\":\"%s\",\"system_fingerprint\":"
             "\"fp_stub\",\"choices\":[{\"text\":\"%s\",\"index\":0,\"finish_reason\":\"stop\"}],\"usage\":"
             "{\"prompt_tokens\":20,\"completion_tokens\":%d,\"total_tokens\":%d}}\n", model, text, chunks, chunks + 20);
}

/* ---- requests ---- */
static int starts(const char *s, const char *prefix) { return !strncmp(s, prefix, strlen(prefix)); }

/* The value of a top-level-looking boolean: enough for bodies that benchmarks send. -1: absent. */
static int flag(const char *body, size_t n, const char *name) {
    char key[40];
    int k = snprintf(key, sizeof key, "\"%s\"", name);
    const char *p = memmem(body, n, key, (size_t)k);
    if (!p) return -1;
    for (p += k; p < body + n && (*p == ' ' || *p == ':'); p++) {}
    return p < body + n && *p == 't';
}

static int details(int fd, const char *path, int head) {
    char body[2048];
    const char *what = "\"details\":{\"parent_model\":\"\",\"format\":\"gguf\",\"family\":\"llama\",\"families\":[\"llama\"],"
                       "\"parameter_size\":\"1B\",\"quantization_level\":\"Q4_K_M\"}";
    const char *digest = "17363033ec8be9212016b99569fb0c46d858cb4fa21af29ea1cea1b175b7b982";
    if (starts(path, "/api/tags"))
        snprintf(body, sizeof body, "{\"models\":[{\"name\":\"%s\",\"model\":\"%s\",\"modified_at\":\"%s\",\"size\":800000000,\"digest\":\"%s\",%s,"
                 "\"capabilities\":[\"completion\"]}]}", model, model, created, digest, what);
    else if (starts(path, "/api/ps"))
        snprintf(body, sizeof body, "{\"models\":[{\"name\":\"%s\",\"model\":\"%s\",\"size\":900000000,\"digest\":\"%s\",%s,"
                 "\"expires_at\":\"2099-01-01T00:00:00Z\",\"size_vram\":900000000,\"context_length\":4096}]}", model, model, digest, what);
    else if (starts(path, "/api/show"))
        snprintf(body, sizeof body, "{\"modelfile\":\"\",\"parameters\":\"\",\"template\":\"{{ .Prompt }}\",%s,\"model_info\":{\"general.architecture\":"
                 "\"llama\",\"llama.context_length\":4096},\"capabilities\":[\"completion\"],\"modified_at\":\"%s\"}", what, created);
    else
        snprintf(body, sizeof body, "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\",\"created\":1795237959,\"owned_by\":\"library\"}]}\n", model);
    return json(fd, body, head);
}

static int stats(int fd) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    char body[256];
    snprintf(body, sizeof body, "{\"answered\":%ld,\"streams\":%ld,\"dropped\":%ld,\"cpu_s\":%.6f}", answered, streams, dropped,
             u.ru_utime.tv_sec + u.ru_utime.tv_usec / 1e6 + u.ru_stime.tv_sec + u.ru_stime.tv_usec / 1e6);
    return json(fd, body, 0);
}

static int generation(int fd, const char *path, const char *body, size_t n) {
    Conn *c = &conns[fd];
    c->dialect = starts(path, "/api/chat") ? CHAT : starts(path, "/api/generate") ? GENERATE : starts(path, "/v1/chat/") ? OPENAI : COMPLETION;
    int wanted = flag(body, n, "stream");
    c->streaming = wanted < 0 ? c->dialect < OPENAI : wanted;
    c->usage = c->streaming && flag(body, n, "include_usage") == 1;
    c->sent = 0;
    c->busy = 1;
    c->began = now_ms();
    c->due = c->began;
    if (c->streaming ? first_ms <= 0 : delay_ms <= 0) return c->streaming ? stream_on(fd) : whole(fd);
    timer_set(fd, c->began + (c->streaming ? first_ms : delay_ms));
    return 0;
}

static int answer(int fd, const char *line, const char *body, size_t n) {
    int head = starts(line, "HEAD ");
    const char *path = strchr(line, ' ');
    if (!path) { drop(fd); return -1; }
    path++;
    if (starts(path, "/api/chat") || starts(path, "/api/generate") || starts(path, "/v1/chat/completions") || starts(path, "/v1/completions"))
        return generation(fd, path, body, n);
    if (starts(path, "/api/version")) return json(fd, "{\"version\":\"0.33.0\"}", head);
    if (starts(path, "/stub/stats")) return stats(fd);
    if (starts(path, "/api/tags") || starts(path, "/api/ps") || starts(path, "/api/show") || starts(path, "/v1/models")) return details(fd, path, head);
    if (starts(path, "/health")) return json(fd, "{\"status\":\"ok\"}", head);
    if (starts(path, "/ ")) return reply(fd, "text/plain; charset=utf-8", "Ollama is running", 17, head);
    const char *none = "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 18\r\n\r\n404 page not found";
    return put(fd, none, strlen(none) - (head ? 18 : 0));
}

/* Length of the request at the start of `in` (0: not complete), with where its body begins. -1: refuse. */
static long framed(Conn *c, size_t *body_at) {
    char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
    if (!end) return c->in_len > IN_LIMIT ? -1 : 0;
    *body_at = (size_t)(end - c->in) + 4;
    size_t length = 0;
    for (char *p = memchr(c->in, '\n', *body_at); p && p + 1 < end; p = memchr(p + 1, '\n', (size_t)(end - p))) {
        if (!strncasecmp(p + 1, "content-length:", 15)) length = strtoul(p + 16, NULL, 10);
        if (!strncasecmp(p + 1, "transfer-encoding:", 18)) { /* chunked: find the last chunk, take the frame as the body */
            char *last = memmem(end + 2, c->in_len - (size_t)(end + 2 - c->in), "\r\n0\r\n\r\n", 7);
            return last ? (last - c->in) + 7 : 0;
        }
    }
    if (length > IN_LIMIT) return -1;
    return *body_at + length <= c->in_len ? (long)(*body_at + length) : 0;
}

static void serve(int fd) {
    Conn *c = &conns[fd];
    while (c->open && !c->busy && c->in_len) {
        size_t body_at = 0;
        long n = framed(c, &body_at);
        if (n < 0) { drop(fd); return; }
        if (!n) return;
        char keep = c->in[body_at - 1];
        c->in[body_at - 1] = 0; /* ends the head for the string functions */
        int gone = answer(fd, c->in, c->in + body_at, (size_t)n - body_at);
        if (gone) return;
        c->in[body_at - 1] = keep;
        memmove(c->in, c->in + n, c->in_len - (size_t)n);
        c->in_len -= (size_t)n;
    }
}

static void readable(int fd) {
    Conn *c = &conns[fd];
    for (;;) {
        if (c->in_len == c->in_cap) { c->in_cap = c->in_cap ? c->in_cap * 2 : 2048; c->in = realloc(c->in, c->in_cap); }
        size_t room = c->in_cap - c->in_len;
        ssize_t n = read(fd, c->in + c->in_len, room);
        if (n == 0 || (n < 0 && errno != EAGAIN)) { drop(fd); return; }
        if (n < 0) break;
        c->in_len += (size_t)n;
        if ((size_t)n < room) break;
    }
    serve(fd);
}

static void writable(int fd) {
    Conn *c = &conns[fd];
    ssize_t n = write(fd, c->out, c->out_len);
    if (n < 0) { if (errno != EAGAIN) drop(fd); return; }
    memmove(c->out, c->out + n, c->out_len - (size_t)n);
    c->out_len -= (size_t)n;
    if (!c->out_len) {
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e);
    }
}

static void due(void) {
    uint64_t ticks;
    if (read(timer_fd, &ticks, sizeof ticks) < 0) return;
    armed_for = -1;
    double now = now_ms();
    while (heap_len && conns[heap[0]].due <= now) {
        int fd = heap[0];
        timer_clear(fd);
        int gone = conns[fd].streaming ? stream_on(fd) : whole(fd);
        if (!gone && !conns[fd].busy) serve(fd);
    }
}

static void accept_all(int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (fd >= MAX_FDS) { close(fd); continue; }
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        memset(&conns[fd], 0, sizeof conns[fd]);
        conns[fd].heap = -1;
        conns[fd].open = 1;
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
    }
}

static int listen_on(int port) {
    int s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    if (bind(s, (struct sockaddr *)&a, n) || listen(s, 4096) || getsockname(s, (struct sockaddr *)&a, &n)) { perror("stub"); exit(1); }
    printf("%d\n", ntohs(a.sin_port));
    fflush(stdout);
    return s;
}

int main(int argc, char **argv) {
    int port = 0;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--port")) port = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--delay")) delay_ms = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--first")) first_ms = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--interval")) interval_ms = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--chunks")) chunks = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--model")) model = argv[i + 1];
        else { fprintf(stderr, "stub: unknown option %s\n", argv[i]); return 2; }
    }
    if (argc % 2 == 0 || chunks < 1) { fprintf(stderr, "stub: every option needs a value, --chunks at least 1\n"); return 2; }
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files = {MAX_FDS, MAX_FDS};
    setrlimit(RLIMIT_NOFILE, &files);
    time_t t = time(NULL);
    strftime(created, sizeof created, "%Y-%m-%dT%H:%M:%S.000000000Z", gmtime(&t));
    prepare();
    int listener = listen_on(port);
    ep = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(ep, EPOLL_CTL_ADD, listener, &e);
    e.data.fd = timer_fd;
    epoll_ctl(ep, EPOLL_CTL_ADD, timer_fd, &e);
    struct epoll_event events[512];
    for (;;) {
        arm();
        int n = epoll_wait(ep, events, 512, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) accept_all(listener);
            else if (fd == timer_fd) due();
            else if (conns[fd].open) {
                if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(fd);
                if (conns[fd].open && events[i].events & EPOLLOUT) writable(fd);
            }
        }
    }
}

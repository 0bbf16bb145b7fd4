/* Load generator for benchmarks: one thread, epoll, keep-alive; prints one JSON object.
 *
 *   load --url http://127.0.0.1:P[,URL...] --path PATH --body JSON [--connections C] [--duration S | --requests N] [--warmup S]
 *        [--chunks N] [--stream --ramp S] [--limit S] [--header "Name: value"]
 *
 * Closed loop: every connection sends its next request when its reply is complete. Connections are spread evenly over the URLs.
 * With --stream the connections start evenly over --ramp seconds (one stream's length), so that streams are not in step; only
 * requests sent after the ramp and the warm-up are measured, and at the end all streams are awaited (--limit seconds at most).
 * Every reply must be a 200 whose text counts "0 1 2 ... chunks-1 " and, as a stream, must be ended by its dialect's ending.
 * "measuring" and "measured" are printed as lines when the measured time begins and ends: whoever reads them can look at the CPU
 * time of what stands between.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
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
#include <time.h>
#include <unistd.h>

#define MAX_CONNS 8192
#define MAX_SAMPLES 8000000
#define MAX_TARGETS 64

enum framing { HEAD, SIZED, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, TO_CLOSE };

typedef struct {
    int fd, target, busy, counted;
    double start_at, sent_at;  /* ms; start_at: when its first request is due */
    char head[8192];           /* header lines, chunk-size lines */
    size_t head_len;
    enum framing state;
    long left;                 /* bytes of body or chunk to come */
    int status, ended, first, close_after;
    int next;                  /* the number that the text must go on with */
    int wrong;
    char *line;                /* an incomplete line of body */
    size_t line_len, line_cap;
} Conn;

static Conn conns[MAX_CONNS];
static struct sockaddr_in targets[MAX_TARGETS];
static int target_count, ep;
static char *request[MAX_TARGETS];
static size_t request_len[MAX_TARGETS];
static int streaming, chunks = 16, connections = 1;
static double duration = 5, warmup = 1, ramp = 0, limit = 30;
static long wanted;

static uint32_t *latency, *first_byte; /* microseconds */
static long samples, first_samples, done, started, errors, non_200, lost, unended, bytes;
static double t0, measure_from, measure_to;
static int measuring, stopping;

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static double cpu_s(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_utime.tv_usec / 1e6 + u.ru_stime.tv_sec + u.ru_stime.tv_usec / 1e6;
}

/* ---- connections ---- */
static void hang_up(Conn *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->busy = 0;
}

static int dial(Conn *c) {
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&targets[c->target], sizeof targets[0])) { errors++; hang_up(c); return -1; }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
    return 0;
}

static void send_next(Conn *c) {
    if (stopping || (wanted && started >= wanted && measuring)) { c->busy = 0; return; }
    if (errors > 1000) { stopping = 1; return; }
    if (c->fd < 0 && dial(c)) { c->start_at = now_ms() + 20; return; }
    c->head_len = 0;
    c->line_len = 0;
    c->state = HEAD;
    c->status = c->ended = c->first = c->next = c->wrong = c->close_after = 0;
    c->sent_at = now_ms();
    c->busy = 1;
    c->counted = measuring;
    started += measuring;
    ssize_t n = send(c->fd, request[c->target], request_len[c->target], MSG_NOSIGNAL);
    if (n != (ssize_t)request_len[c->target]) { errors++; hang_up(c); c->start_at = now_ms() + 20; }
}

static void failed(Conn *c) {
    errors++;
    hang_up(c);
    c->start_at = now_ms() + 20;
}

static void complete(Conn *c) {
    double now = now_ms();
    if (c->status != 200) non_200++;
    else if (c->wrong || c->next != chunks) lost++;
    else if (streaming && !c->ended) unended++;
    if (c->counted && c->status == 200) {
        done++;
        if (samples < MAX_SAMPLES) latency[samples++] = (uint32_t)((now - c->sent_at) * 1e3);
    }
    c->busy = 0;
    if (c->close_after) hang_up(c);
    send_next(c);
}

/* ---- the text: every number must be the one after the last ---- */
static void count_text(Conn *c, const char *p, const char *end) {
    while (p < end && *p != '"') {
        char *after;
        if (*p < '0' || *p > '9') { p++; continue; }
        long n = strtol(p, &after, 10);
        if (n != c->next) c->wrong = 1;
        c->next = (int)n + 1;
        p = after;
    }
}

static void take_line(Conn *c, const char *line, size_t n) {
    static const char *keys[] = {"\"content\":\"", "\"response\":\"", "\"text\":\"", "\"content\": \"", "\"text\": \""};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *p = memmem(line, n, keys[i], strlen(keys[i]));
        if (p) { count_text(c, p + strlen(keys[i]), line + n); break; }
    }
    if (memmem(line, n, "\"done\":true", 11) || memmem(line, n, "data: [DONE]", 12)) c->ended = 1;
}

static void take_body(Conn *c, const char *data, size_t n) {
    if (!n) return;
    if (!c->first) {
        c->first = 1;
        if (c->counted && first_samples < MAX_SAMPLES) first_byte[first_samples++] = (uint32_t)((now_ms() - c->sent_at) * 1e3);
    }
    if (c->counted) bytes += (long)n;
    if (c->line_len + n + 1 > c->line_cap) { c->line_cap = (c->line_len + n) * 2 + 256; c->line = realloc(c->line, c->line_cap); }
    memcpy(c->line + c->line_len, data, n);
    c->line_len += n;
    char *from = c->line, *end = c->line + c->line_len, *nl;
    while ((nl = memchr(from, '\n', (size_t)(end - from)))) {
        *nl = 0;
        take_line(c, from, (size_t)(nl - from));
        from = nl + 1;
    }
    c->line_len = (size_t)(end - from);
    memmove(c->line, from, c->line_len);
}

static void body_over(Conn *c) {
    if (c->line_len) {
        c->line[c->line_len] = 0;
        take_line(c, c->line, c->line_len);
    }
    complete(c);
}

/* ---- HTTP: the client side, as much as a well-behaved server needs ---- */
static void head_over(Conn *c) {
    c->head[c->head_len] = 0;
    c->status = c->head_len > 12 ? atoi(c->head + 9) : 0;
    c->state = TO_CLOSE;
    for (char *p = strchr(c->head, '\n'); p; p = strchr(p + 1, '\n')) {
        if (!strncasecmp(p + 1, "content-length:", 15)) { c->state = SIZED; c->left = atol(p + 16); }
        else if (!strncasecmp(p + 1, "transfer-encoding:", 18)) c->state = CHUNK_SIZE;
        else if (!strncasecmp(p + 1, "connection: close", 17)) c->close_after = 1;
    }
    c->head_len = 0;
}

/* Feed one header block or one line into c->head; returns how many bytes it took, *whole says whether it ended. */
static size_t gather(Conn *c, const char *data, size_t n, const char *until, int *whole) {
    size_t u = strlen(until), i = 0;
    *whole = 0;
    while (i < n && c->head_len < sizeof c->head - 1) {
        c->head[c->head_len++] = data[i++];
        if (c->head_len >= u && !memcmp(c->head + c->head_len - u, until, u)) { *whole = 1; break; }
    }
    return i;
}

static size_t pass(Conn *c, const char *data, size_t n) {
    size_t k = n < (size_t)c->left ? n : (size_t)c->left;
    take_body(c, data, k);
    c->left -= (long)k;
    return k;
}

/* One step of parsing; returns the bytes used. A reply that is complete leaves c->busy as the next request set it. */
static size_t step(Conn *c, const char *data, size_t n) {
    int whole;
    size_t k = 0;
    switch (c->state) {
    case HEAD:
        k = gather(c, data, n, "\r\n\r\n", &whole);
        if (whole) {
            head_over(c);
            if (c->state == SIZED && !c->left) body_over(c);
        }
        return k;
    case SIZED:
        k = pass(c, data, n);
        if (!c->left) body_over(c);
        return k;
    case CHUNK_SIZE:
        k = gather(c, data, n, "\r\n", &whole);
        if (whole) {
            c->head[c->head_len] = 0;
            c->left = strtol(c->head, NULL, 16);
            c->head_len = 0;
            c->state = c->left ? CHUNK_DATA : TRAILER;
        }
        return k;
    case CHUNK_DATA:
        k = pass(c, data, n);
        if (!c->left) c->state = CHUNK_END;
        return k;
    case CHUNK_END:
        k = gather(c, data, n, "\r\n", &whole);
        if (whole) { c->head_len = 0; c->state = CHUNK_SIZE; }
        return k;
    case TRAILER:
        k = gather(c, data, n, "\r\n", &whole);
        if (whole) {
            size_t length = c->head_len;
            c->head_len = 0;
            if (length == 2) body_over(c);
        }
        return k;
    default:
        take_body(c, data, n);
        return n;
    }
}

static void readable(Conn *c) {
    static char buf[65536];
    ssize_t n = recv(c->fd, buf, sizeof buf, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        if (n == 0 && c->busy && c->state == TO_CLOSE) { c->close_after = 1; body_over(c); }
        else if (c->busy) failed(c);
        else { hang_up(c); c->start_at = now_ms() + 20; }
        return;
    }
    size_t at = 0;
    while (at < (size_t)n && c->busy && c->fd >= 0) {
        size_t used = step(c, buf + at, (size_t)n - at);
        if (!used) { failed(c); return; }
        at += used;
    }
}

/* ---- results ---- */
static int by_size(const void *a, const void *b) { return (*(const uint32_t *)a > *(const uint32_t *)b) - (*(const uint32_t *)a < *(const uint32_t *)b); }

static void quantiles(const char *name, uint32_t *v, long n) {
    qsort(v, (size_t)n, sizeof *v, by_size);
    double sum = 0;
    for (long i = 0; i < n; i++) sum += v[i];
#define AT(q) (n ? v[(long)((q) * (double)(n - 1))] / 1e3 : 0.0)
    printf("\"%s\":{\"count\":%ld,\"mean\":%.4f,\"p50\":%.4f,\"p90\":%.4f,\"p99\":%.4f,\"max\":%.4f},", name, n,
           n ? sum / (double)n / 1e3 : 0.0, AT(0.5), AT(0.9), AT(0.99), AT(1.0));
}

static void report(double cpu_from, double cpu_to) {
    double seconds = (measure_to - measure_from) / 1e3;
    long unfinished = 0;
    for (int i = 0; i < connections; i++) unfinished += conns[i].busy && conns[i].counted;
    printf("{");
    quantiles("latency_ms", latency, samples);
    quantiles("first_byte_ms", first_byte, first_samples);
    printf("\"connections\":%d,\"seconds\":%.4f,\"started\":%ld,\"done\":%ld,\"rps\":%.2f,\"bytes\":%ld,\"errors\":%ld,\"non_200\":%ld,"
           "\"lost_or_reordered\":%ld,\"without_end\":%ld,\"unfinished\":%ld,\"cpu\":%.4f}\n",
           connections, seconds, started, done, seconds > 0 ? (double)done / seconds : 0, bytes, errors, non_200, lost, unended,
           unfinished, seconds > 0 ? (cpu_to - cpu_from) / seconds : 0);
    fflush(stdout);
}

static void mark(const char *word) {
    printf("%s\n", word);
    fflush(stdout);
}

/* ---- arguments ---- */
static void add_targets(char *urls, const char *path, const char *body, const char *header) {
    for (char *u = strtok(urls, ","); u && target_count < MAX_TARGETS; u = strtok(NULL, ",")) {
        char host[64];
        int port;
        if (sscanf(u, "http://%63[^:/]:%d", host, &port) != 2) { fprintf(stderr, "load: not http://ADDRESS:PORT: %s\n", u); exit(2); }
        struct sockaddr_in *a = &targets[target_count];
        a->sin_family = AF_INET;
        a->sin_port = htons((uint16_t)port);
        if (inet_pton(AF_INET, host, &a->sin_addr) != 1) { fprintf(stderr, "load: not an IPv4 address: %s\n", host); exit(2); }
        request_len[target_count] = (size_t)asprintf(&request[target_count],
            "POST %s HTTP/1.1\r\nHost: %s:%d\r\nUser-Agent: load/1\r\nAccept: */*\r\nContent-Type: application/json\r\n%s%sContent-Length: %zu\r\n\r\n%s",
            path, host, port, header, *header ? "\r\n" : "", strlen(body), body);
        target_count++;
    }
}

static void arguments(int argc, char **argv) {
    char *urls = NULL, *path = "/v1/chat/completions", *body = "{}", *header = "";
    for (int i = 1; i < argc; i++) {
        char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(name, "--stream")) { streaming = 1; continue; }
        i++;
        if (!strcmp(name, "--url")) urls = value;
        else if (!strcmp(name, "--path")) path = value;
        else if (!strcmp(name, "--body")) body = value;
        else if (!strcmp(name, "--header")) header = value;
        else if (!strcmp(name, "--connections")) connections = atoi(value);
        else if (!strcmp(name, "--duration")) duration = atof(value);
        else if (!strcmp(name, "--requests")) wanted = atol(value);
        else if (!strcmp(name, "--warmup")) warmup = atof(value);
        else if (!strcmp(name, "--chunks")) chunks = atoi(value);
        else if (!strcmp(name, "--ramp")) ramp = atof(value);
        else if (!strcmp(name, "--limit")) limit = atof(value);
        else { fprintf(stderr, "load: unknown option %s\n", name); exit(2); }
    }
    if (!urls || connections < 1 || connections > MAX_CONNS) { fprintf(stderr, "load: --url is needed, --connections 1 to %d\n", MAX_CONNS); exit(2); }
    add_targets(urls, path, body, header);
}

static void start_due(double now) {
    for (int i = 0; i < connections; i++)
        if (!conns[i].busy && !stopping && conns[i].start_at <= now) send_next(&conns[i]);
}

static int any_busy(void) {
    for (int i = 0; i < connections; i++)
        if (conns[i].busy && conns[i].counted) return 1;
    return 0;
}

/* Moves from warm-up to measuring to waiting for the rest; 0 when all is over. */
static int advance(double now, double *cpu_from, double *cpu_to) {
    if (!measuring && !stopping && now >= t0 + (ramp + warmup) * 1e3) {
        measuring = 1;
        mark("measuring");
        *cpu_from = cpu_s();
        measure_from = now_ms();
    }
    int enough = measuring && (wanted ? done >= wanted : now >= measure_from + duration * 1e3);
    if (!stopping && enough) stopping = 1;
    if (stopping && !measure_to) {
        measure_to = now_ms();
        if (!measure_from) measure_from = measure_to;
        *cpu_to = cpu_s();
        mark("measured");
    }
    if (!streaming && measure_to) return 0; /* replies under way at the end are neither counted nor lost */
    if (measure_to) return any_busy() && now < measure_to + limit * 1e3;
    return now < t0 + (ramp + warmup + duration + limit) * 1e3 || !wanted;
}

int main(int argc, char **argv) {
    arguments(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files = {MAX_CONNS + 64, MAX_CONNS + 64};
    setrlimit(RLIMIT_NOFILE, &files);
    latency = malloc(sizeof *latency * MAX_SAMPLES);
    first_byte = malloc(sizeof *first_byte * MAX_SAMPLES);
    ep = epoll_create1(EPOLL_CLOEXEC);
    t0 = now_ms();
    for (int i = 0; i < connections; i++) {
        conns[i].fd = -1;
        conns[i].target = i % target_count;
        conns[i].start_at = t0 + ramp * 1e3 * i / connections;
    }
    double cpu_from = 0, cpu_to = 0, looked = 0;
    struct epoll_event events[512];
    for (;;) {
        double now = now_ms();
        if (now >= looked + 1) { start_due(now); looked = now; }
        if (!advance(now, &cpu_from, &cpu_to)) break;
        int n = epoll_wait(ep, events, 512, 1);
        for (int i = 0; i < n; i++) {
            Conn *c = events[i].data.ptr;
            if (c->fd >= 0) readable(c);
        }
    }
    report(cpu_from, cpu_to);
    return 0;
}

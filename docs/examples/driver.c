/* A driver in C: a service for as long as it runs. Debian: libzmq3-dev, libcjson-dev.

   cc driver.c -o driver -lzmq -lcjson && ./driver psu_cs PSU

   RSREG_ENDPOINT says where the registry is, RSREG_ADVERTISE where others reach this machine. */
#include <cjson/cJSON.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

static const double PATIENCE = 2; /* seconds until an answer counts as lost */

static volatile sig_atomic_t over;
static void *context, *registry;
static char endpoint[300], host[256], sender[20], request_id[64], service_id[520];
static int registered, requests, none;

static void stop(int number) { over = number; }

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

/* "host", "host:port" or "tcp://host:port"; and the local address of the route there, which a
   connected UDP socket knows: nothing is sent. */
static void find_addresses(void) {
    const char *said = getenv("RSREG_ENDPOINT"), *own = getenv("RSREG_ADVERTISE");
    char name[256] = "localhost", port[8] = "4242";
    if (said && !strncmp(said, "tcp://", 6)) said += 6;
    if (said && *said) sscanf(said, "%255[^:]:%7s", name, port);
    snprintf(endpoint, sizeof endpoint, "tcp://%s:%s", name, port);
    if (own && *own) { snprintf(host, sizeof host, "%s", own); return; }
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_DGRAM}, *to;
    struct sockaddr_in near;
    socklen_t size = sizeof near;
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    if (getaddrinfo(name, port, &hints, &to) || connect(udp, to->ai_addr, to->ai_addrlen) ||
        getsockname(udp, (struct sockaddr *)&near, &size) ||
        getnameinfo((struct sockaddr *)&near, size, host, sizeof host, NULL, 0, NI_NUMERICHOST)) {
        fprintf(stderr, "there is no way to %s; set RSREG_ADVERTISE\n", name);
        exit(1);
    }
    freeaddrinfo(to), close(udp);
}

/* A fresh socket has nothing queued that was given up. Without LINGER 0 the old one would send it. */
static void connect_anew(void) {
    if (registry) zmq_close(registry);
    registry = zmq_socket(context, ZMQ_DEALER);
    zmq_setsockopt(registry, ZMQ_LINGER, &none, sizeof none);
    zmq_connect(registry, endpoint);
}

/* Send a request, which is the same as the last one if it is sent `again`. */
static void ask(const char *action, int again, cJSON *info, double ttl) {
    cJSON *request = cJSON_CreateObject();
    if (!again) snprintf(request_id, sizeof request_id, "%s#%d", sender, ++requests);
    cJSON_AddStringToObject(request, "action", action);
    cJSON_AddStringToObject(request, "request_id", request_id);
    if (info) cJSON_AddItemToObject(request, "service_info", info);
    if (info) cJSON_AddNumberToObject(request, "ttl", ttl);
    else cJSON_AddStringToObject(request, "service_id", service_id);
    char *text = cJSON_PrintUnformatted(request);
    zmq_send(registry, "", 0, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    zmq_send(registry, text, strlen(text), ZMQ_DONTWAIT);
    free(text), cJSON_Delete(request);
}

static cJSON *about_us(char **argv, int port) {
    cJSON *info = cJSON_CreateObject();
    cJSON_AddStringToObject(info, "name", argv[1]);
    cJSON_AddStringToObject(info, "type", argv[2]);
    cJSON_AddStringToObject(info, "host", host);
    cJSON_AddNumberToObject(info, "port", port);
    if (*service_id) cJSON_AddStringToObject(info, "id", service_id);
    return info;
}

/* Whether what has come is the answer to the last request; then also when to ask again. */
static int answered(double ttl, double *due) {
    char text[8192];
    zmq_recv(registry, text, sizeof text, 0); /* the empty frame */
    int size = zmq_recv(registry, text, sizeof text, 0);
    cJSON *reply = size > 0 && size < (int)sizeof text ? cJSON_ParseWithLength(text, size) : NULL;
    const char *id = cJSON_GetStringValue(cJSON_GetObjectItem(reply, "request_id"));
    const char *given = cJSON_GetStringValue(cJSON_GetObjectItem(reply, "service_id"));
    const char *code = cJSON_GetStringValue(cJSON_GetObjectItem(reply, "code"));
    int ours = id && !strcmp(id, request_id);
    if (ours && cJSON_IsTrue(cJSON_GetObjectItem(reply, "success"))) {
        if (given) snprintf(service_id, sizeof service_id, "%s", given);
        registered = 1, *due = now() + ttl / 3;
    } else if (ours && registered && code && !strcmp(code, "unknown-service")) {
        registered = 0, *due = 0; /* it forgot us: register again, under the same id */
    } else if (ours) {
        fprintf(stderr, "%s\n", cJSON_GetStringValue(cJSON_GetObjectItem(reply, "error")));
        *due = now() + PATIENCE;
    }
    cJSON_Delete(reply);
    return ours;
}

int main(int argc, char **argv) {
    if (argc < 3) return fprintf(stderr, "usage: driver NAME TYPE [TTL]\n"), 2;
    double ttl = argc > 3 ? atof(argv[3]) : 30, due = 0;
    char bound[256], command[1000];
    size_t size = sizeof bound;
    int waits = 0;
    unsigned long long number;
    if (getentropy(&number, sizeof number)) return 1;
    snprintf(sender, sizeof sender, "%llx", number);
    signal(SIGINT, stop), signal(SIGTERM, stop);
    find_addresses();
    context = zmq_ctx_new();
    void *commands = zmq_socket(context, ZMQ_REP);
    zmq_setsockopt(commands, ZMQ_LINGER, &none, sizeof none);
    zmq_bind(commands, "tcp://*:*"); /* a free port, and this tells which */
    zmq_getsockopt(commands, ZMQ_LAST_ENDPOINT, bound, &size);
    int port = atoi(strrchr(bound, ':') + 1);

    while (!over) {
        if (now() >= due) {
            if (!registry || waits) connect_anew();
            if (registered) ask("renew", waits, NULL, 0);
            else ask("register", waits, about_us(argv, port), ttl);
            waits = 1, due = now() + PATIENCE;
        }
        zmq_pollitem_t on[] = {{commands, 0, ZMQ_POLLIN, 0}, {registry, 0, ZMQ_POLLIN, 0}};
        if (zmq_poll(on, 2, due > now() ? (long)((due - now()) * 1000) + 1 : 0) < 1) continue;
        if (on[1].revents && answered(ttl, &due)) waits = 0;
        if (on[0].revents && zmq_recv(commands, command, sizeof command, 0) >= 0)
            zmq_send(commands, "done", 4, 0); /* here the instrument does its work */
    }
    zmq_pollitem_t on = {registry, 0, ZMQ_POLLIN, 0};
    if (*service_id) ask("deregister", 0, NULL, 0);
    for (due = now() + PATIENCE; *service_id && now() < due && zmq_poll(&on, 1, 100) >= 0;)
        if (on.revents && answered(ttl, &(double){0})) break;
    zmq_close(registry), zmq_close(commands), zmq_ctx_term(context);
    return 0;
}

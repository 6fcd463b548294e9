/* libwebsockets; see README.md. cc libwebsockets_client.c -lwebsockets -lpthread */

#include <libwebsockets.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum kind { TEXT, PART, LAST, PING, CLOSE };

struct item {
  struct item *next;
  enum kind kind;
  int first;
  size_t size;
  unsigned char data[]; /* LWS_PRE bytes, then what is sent */
};

struct connection {
  struct connection *next;
  char name[64], token[8192], protocols[8300], origin[256], reason[256], chosen[64], *text;
  size_t length;
  int code, is_open, is_over, floods;
  struct lws *wsi;
  struct item *head, **tail;
  lws_sorted_usec_list_t timer;
};

static struct lws_context *context;
static struct connection *connections;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct line {
  struct line *next;
  char text[];
} *lines, **last_line = &lines;

static const char HEAD[] = "{\"type\":\"ping\",\"data\":{\"pingId\":\"filled\"},\"pad\":\"";

static void say(const char *what, const char *name, const char *rest, size_t size) {
  printf("%s %s %.*s\n", what, name, (int)size, rest);
  fflush(stdout);
}

static void enqueue(struct connection *c, enum kind kind, int first, const char *data, size_t size) {
  struct item *item = malloc(sizeof *item + LWS_PRE + size + 1);
  item->next = NULL;
  item->kind = kind;
  item->first = first;
  item->size = size;
  memcpy(item->data + LWS_PRE, data, size);
  *c->tail = item;
  c->tail = &item->next;
  if (c->wsi && c->is_open) lws_callback_on_writable(c->wsi);
}

static void heartbeat(struct connection *c) {
  static char text[2100];
  if (!*text) {
    strcpy(text, "{\"type\":\"heartbeat\",\"pad\":\"");
    memset(text + strlen(text), 'x', 2000);
    strcat(text, "\"}");
  }
  enqueue(c, TEXT, 1, text, strlen(text));
}

static void go_on(lws_sorted_usec_list_t *timer) {
  struct connection *c = lws_container_of(timer, struct connection, timer);
  if (c->is_over || !c->wsi) return;
  if (!c->head) heartbeat(c);
  lws_sul_schedule(context, 0, &c->timer, go_on, 1000);
}

static int write_one(struct connection *c) {
  struct item *item = c->head;
  if (!item) return 0;
  c->head = item->next;
  if (!c->head) c->tail = &c->head;
  int flags = item->kind == PING ? LWS_WRITE_PING
              : item->first      ? LWS_WRITE_TEXT
                                 : LWS_WRITE_CONTINUATION;
  if (item->kind == PART) flags |= LWS_WRITE_NO_FIN;
  int result = 0;
  if (item->kind == CLOSE) {
    lws_close_reason(c->wsi, LWS_CLOSE_STATUS_NORMAL, NULL, 0);
    result = -1;
  } else if (lws_write(c->wsi, item->data + LWS_PRE, item->size, flags) < 0) {
    result = -1;
  }
  free(item);
  if (c->head) lws_callback_on_writable(c->wsi);
  return result;
}

static void over(struct connection *c) {
  char rest[300];
  if (c->is_over) return;
  c->is_over = 1;
  c->wsi = NULL;
  int size = snprintf(rest, sizeof rest, "%d %s", c->code ? c->code : 1006, c->reason);
  say("closed", c->name, rest, size);
}

static void obey(char *line) {
  char *command = strsep(&line, " "), *name = strsep(&line, " "), *rest = line ? line : "";
  struct connection *c;
  if (!strcmp(command, "connect")) {
    c = calloc(1, sizeof *c);
    c->tail = &c->head;
    c->next = connections;
    connections = c;
    snprintf(c->name, sizeof c->name, "%s", name);
    char *url = strsep(&rest, " "), *token = strsep(&rest, " "), *protocols = strsep(&rest, " ");
    const char *scheme, *host, *path;
    char full[9000];
    int port;
    if (lws_parse_uri(url, &scheme, &host, &port, &path)) exit(2);
    snprintf(full, sizeof full, "/%s", path);
    if (strcmp(token, "-")) snprintf(c->token, sizeof c->token, "Bearer %s", token);
    if (strcmp(protocols, "-")) snprintf(c->protocols, sizeof c->protocols, "%s", protocols);
    if (strcmp(rest, "-")) snprintf(c->origin, sizeof c->origin, "%s", rest);
    char authority[300];
    snprintf(authority, sizeof authority, "%s:%d", host, port);
    struct lws_client_connect_info info = {0};
    info.context = context;
    info.address = host;
    info.port = port;
    info.path = full;
    info.host = authority;
    info.protocol = *c->protocols ? c->protocols : NULL;
    info.local_protocol_name = "client";
    info.opaque_user_data = c;
    info.pwsi = &c->wsi;
    /* The certificate is for an address, which this library does not look for. */
    if (!strcmp(scheme, "wss")) info.ssl_connection = LCCSCF_USE_SSL | LCCSCF_SKIP_SERVER_CERT_HOSTNAME_CHECK;
    lws_client_connect_via_info(&info);
    return;
  }
  for (c = connections; c && strcmp(c->name, name); c = c->next);
  if (!c || c->is_over) return;
  if (!strcmp(command, "send")) {
    enqueue(c, TEXT, 1, rest, strlen(rest));
  } else if (!strcmp(command, "fill")) {
    size_t size = strtoul(rest, NULL, 10), head = sizeof HEAD - 1;
    char *text = malloc(size);
    memset(text, 'x', size);
    memcpy(text, HEAD, head);
    memcpy(text + size - 2, "\"}", 2);
    enqueue(c, TEXT, 1, text, size);
    free(text);
  } else if (!strcmp(command, "parts")) {
    size_t count = strtoul(strsep(&rest, " "), NULL, 10), size = strlen(rest), at = 0;
    size_t step = (size + count - 1) / count;
    for (; at < size; at += step) {
      int last = at + step >= size;
      enqueue(c, last ? LAST : PART, !at, rest + at, last ? size - at : step);
    }
  } else if (!strcmp(command, "ping")) {
    enqueue(c, PING, 1, "", 0);
  } else if (!strcmp(command, "flood")) {
    lws_sul_schedule(context, 0, &c->timer, go_on, 1);
  } else if (!strcmp(command, "close")) {
    enqueue(c, CLOSE, 1, "", 0);
  }
}

static void obey_all(void) {
  for (;;) {
    pthread_mutex_lock(&lock);
    struct line *line = lines;
    if (line) {
      lines = line->next;
      if (!lines) last_line = &lines;
    }
    pthread_mutex_unlock(&lock);
    if (!line) return;
    obey(line->text);
    free(line);
  }
}

static int add(struct lws *wsi, const char *name, const char *value, unsigned char **at,
               unsigned char *end) {
  if (!*value) return 0;
  return lws_add_http_header_by_name(wsi, (const unsigned char *)name, (const unsigned char *)value,
                                     strlen(value), at, end)
             ? -1
             : 0;
}

static int callback(struct lws *wsi, enum lws_callback_reasons why, void *user, void *in, size_t size) {
  struct connection *c = wsi ? lws_get_opaque_user_data(wsi) : NULL;
  switch (why) {
  case LWS_CALLBACK_EVENT_WAIT_CANCELLED:
    obey_all();
    break;
  case LWS_CALLBACK_CLIENT_APPEND_HANDSHAKE_HEADER: {
    unsigned char **at = in, *end = *at + size;
    if (!c || add(wsi, "authorization:", c->token, at, end)) return -1;
    /* Its own setting for this puts a scheme before it. */
    return add(wsi, "origin:", c->origin, at, end);
  }
  case LWS_CALLBACK_CLIENT_CONNECTION_ERROR:
    if (c && !c->is_over) {
      char status[16];
      int length = snprintf(status, sizeof status, "%u", lws_http_client_http_response(wsi));
      c->is_over = 1;
      c->wsi = NULL;
      say("failed", c->name, status, length);
      if (in) say("trouble", c->name, in, strlen(in));
    }
    break;
  case LWS_CALLBACK_CLIENT_FILTER_PRE_ESTABLISH:
    strcpy(c->chosen, "-");
    if (lws_hdr_total_length(wsi, WSI_TOKEN_PROTOCOL))
      lws_hdr_copy(wsi, c->chosen, sizeof c->chosen, WSI_TOKEN_PROTOCOL);
    break;
  case LWS_CALLBACK_CLIENT_ESTABLISHED:
    c->is_open = 1;
    say("open", c->name, c->chosen, strlen(c->chosen));
    if (c->head) lws_callback_on_writable(wsi);
    break;
  case LWS_CALLBACK_CLIENT_RECEIVE:
    c->text = realloc(c->text, c->length + size + 1);
    memcpy(c->text + c->length, in, size);
    c->length += size;
    if (lws_is_final_fragment(wsi) && !lws_remaining_packet_payload(wsi)) {
      say("text", c->name, c->text, c->length);
      c->length = 0;
    }
    break;
  case LWS_CALLBACK_CLIENT_RECEIVE_PONG:
    say("pong", c->name, "", 0);
    break;
  case LWS_CALLBACK_CLIENT_WRITEABLE:
    return write_one(c);
  case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE:
    if (size >= 2) {
      const unsigned char *code = in;
      c->code = code[0] << 8 | code[1];
      snprintf(c->reason, sizeof c->reason, "%.*s", (int)size - 2, (const char *)in + 2);
    }
    break;
  case LWS_CALLBACK_CLIENT_CLOSED:
    over(c);
    break;
  default:
    break;
  }
  return 0;
}

static void *read_lines(void *unused) {
  char *text = NULL;
  size_t room = 0;
  ssize_t size;
  while ((size = getline(&text, &room, stdin)) > 0) {
    if (text[size - 1] == '\n') text[--size] = 0;
    struct line *line = malloc(sizeof *line + size + 1);
    line->next = NULL;
    memcpy(line->text, text, size + 1);
    pthread_mutex_lock(&lock);
    *last_line = line;
    last_line = &line->next;
    pthread_mutex_unlock(&lock);
    lws_cancel_service(context);
  }
  _exit(0);
}

int main(void) {
  static const struct lws_protocols protocols[] = {{"client", callback, 0, 65536, 0, NULL, 0},
                                                   LWS_PROTOCOL_LIST_TERM};
  struct lws_context_creation_info info = {0};
  pthread_t reader;
  lws_set_log_level(0, NULL);
  info.port = CONTEXT_PORT_NO_LISTEN;
  info.protocols = protocols;
  info.options = LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT;
  info.client_ssl_ca_filepath = getenv("CLIENT_CA");
  info.fd_limit_per_thread = 1024;
  info.pt_serv_buf_size = 65536;
  context = lws_create_context(&info);
  if (!context) return 1;
  say("can", "header", "origin status parts ping", 24);
  pthread_create(&reader, NULL, read_lines, NULL);
  while (lws_service(context, 0) >= 0);
  return 1;
}

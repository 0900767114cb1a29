/* Who is spoken to: only a peer that has this migration's key. */
#include <arpa/inet.h>
#include <errno.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../phaul.h"

static const uint8_t key[32] = "this migration's key...........";
static const uint8_t other[32] = "the key of another one.........";

struct listener {
	int fd, heard;
};

/* A stranger with a certificate of its own making, and no key. */
static void *pose(void *arg)
{
	struct listener *l = arg;
	SSL_CTX *tls = SSL_CTX_new(TLS_server_method());
	EVP_PKEY *own = EVP_EC_gen("P-256");
	X509 *cert = X509_new();
	char heard[64];
	int fd;

	X509_set_pubkey(cert, own);
	X509_gmtime_adj(X509_getm_notBefore(cert), 0);
	X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
	X509_sign(cert, own, EVP_sha256());
	SSL_CTX_use_certificate(tls, cert);
	SSL_CTX_use_PrivateKey(tls, own);
	fd = accept(l->fd, NULL, NULL);
	SSL *ssl = SSL_new(tls);
	SSL_set_fd(ssl, fd);
	if (SSL_accept(ssl) == 1)
		l->heard = SSL_read(ssl, heard, sizeof(heard));
	close(l->fd);
	shutdown(fd, SHUT_RDWR);
	close(fd);
	SSL_free(ssl);
	X509_free(cert);
	EVP_PKEY_free(own);
	SSL_CTX_free(tls);
	return NULL;
}

static int refuses_certificate(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(at);
	struct listener l = { .fd = socket(AF_INET, SOCK_STREAM, 0) };
	struct phaul_channel *ch;
	struct phaul_error err;
	pthread_t thread;
	int ret;

	if (bind(l.fd, (struct sockaddr *)&at, size) || listen(l.fd, 8) ||
	    getsockname(l.fd, (struct sockaddr *)&at, &size))
		return 1;
	pthread_create(&thread, NULL, pose, &l);
	ret = phaul_channel_connect("127.0.0.1", ntohs(at.sin_port), key, 1, 3000, &ch, &err);
	pthread_join(thread, NULL);
	fprintf(stderr, "a stranger with a certificate heard %d bytes: %d %s\n", l.heard, ret,
		ret ? err.what : "accepted");
	return l.heard > 0 || ret != -EBADMSG;
}

static void *take(void *arg)
{
	return (void *)(intptr_t)phaul_channel_accept(arg, 1500, NULL);
}

static int connects(const uint8_t *ours, int want)
{
	struct phaul_channel *target, *source = NULL;
	struct phaul_error err = {0};
	pthread_t thread;
	void *accepted;
	int ret;

	if (phaul_channel_listen("127.0.0.1", 0, key, 2, &target, &err))
		return 1;
	pthread_create(&thread, NULL, take, target);
	ret = phaul_channel_connect("127.0.0.1", phaul_channel_port(target), ours, 2, 1000, &source, &err);
	pthread_join(thread, &accepted);
	if (!ret)
		phaul_channel_close(source);
	phaul_channel_close(target);
	fprintf(stderr, "%s key: source %d, target %ld\n", ours == key ? "the right" : "a wrong", ret,
		(long)(intptr_t)accepted);
	return want ? ret || accepted : !ret || !accepted;
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	return connects(key, 1) || connects(other, 0) || refuses_certificate();
}

#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int phaul_fail(struct phaul_error *err, int code, const char *where, const char *format, ...)
{
	va_list args;
	int n;

	if (!err)
		return code;
	memset(err, 0, sizeof(*err));
	err->code = code;
	snprintf(err->where, sizeof(err->where), "%s", where);
	va_start(args, format);
	n = vsnprintf(err->what, sizeof(err->what), format, args);
	va_end(args);
	if (code < 0 && n >= 0 && (size_t)n < sizeof(err->what))
		snprintf(err->what + n, sizeof(err->what) - n, ": %s (%s)",
			 strerrorname_np(-code) ?: "unknown error", strerrordesc_np(-code) ?: "?");
	return code;
}

int phaul_wrap(struct phaul_error *err, const char *format, ...)
{
	char inner[sizeof(err->what)];
	va_list args;
	int n;

	if (!err)
		return -1;
	memcpy(inner, err->what, sizeof(inner));
	va_start(args, format);
	n = vsnprintf(err->what, sizeof(err->what), format, args);
	va_end(args);
	if (n >= 0 && (size_t)n < sizeof(err->what))
		snprintf(err->what + n, sizeof(err->what) - n, ": %s", inner);
	return err->code;
}

/* source_rounds.c - rounds of a tree that runs: what was written since the one before, and what children share with their parents. */
#include <string.h>

#include "error.h"
#include "source.h"

static int scan_all(struct phaul_source *src, uint64_t *ret_stopped_ns, struct phaul_error *err)
{
	int64_t shared;

	for (size_t i = 0; i < src->count; i++) {
		struct member *m = &src->members[i];
		uint64_t stopped_ns = m->tracker.stopped_ns;
		int code;

		if (!m->tracked)
			continue;
		range_list_reset(&m->dirty);
		code = m->tracker.kind->cover(&m->tracker, &m->known, err) ?:
		       m->tracker.kind->scan(&m->tracker, &m->known, true, &m->dirty, err);
		*ret_stopped_ns += m->tracker.stopped_ns - stopped_ns;
		/* The next look sees what has become of it. */
		if (code && (!i || !member_is_transient(m, code)))
			return code;
		for (size_t n = 0; n < m->known.count; n++)
			m->known.at[n].flags &= ~VMA_FRESH;
	}
	shared = shared_track_scan(&src->shared, err);
	return shared < 0 ? shared : 0;
}

int source_find_inherited(struct phaul_source *src, bool last, uint64_t *ret_pages, struct phaul_error *err)
{
	int code = 0;

	for (size_t i = 1; i < src->count && !code; i++) {
		struct member *m = &src->members[i], *parent = member_find(src->members, i, m->task.ppid);
		struct range_list *dirty = last ? &m->gone.dirty : &m->dirty, *parents = last ? &parent->gone.dirty : &parent->dirty;
		struct inherit_from from = { &parent->told, parents, parent->tracker.pagemap, last };

		range_list_reset(&m->inherited);
		if (!source_can_tell_shared(src) || !m->tracked || m->told.count || !parent->told.count)
			continue;
		range_list_order(dirty);
		range_list_order(parents);
		code = inherit_find(&from, &m->known, m->tracker.pagemap, dirty, &m->inherited);
		*ret_pages += m->inherited.pages;
	}
	return code ? phaul_fail(err, code, "source", "looking for what processes below pid %d share", src->pid) : 0;
}

/* The husks have it all when the next round begins. */
static int note_told(struct phaul_source *src, struct phaul_error *err)
{
	int code = 0;

	for (size_t i = 0; i < src->count && !code; i++) {
		struct member *m = &src->members[i];

		range_list_free(&m->inherited);
		memory_map_free(&m->told);
		code = memory_map_copy(&m->known, &m->told);
	}
	return code ? phaul_fail(err, code, "source", "remembering the mappings below pid %d", src->pid) : 0;
}

int phaul_source_round(struct phaul_source *src, struct phaul_channel *ch, struct phaul_round *ret,
		       struct phaul_error *err)
{
	uint64_t start = phaul_now_ns();
	/* The first look was that of arming. */
	int code = src->round++ ? source_look(src, err) : 0;

	memset(ret, 0, sizeof(*ret));
	code = code ?: scan_all(src, &ret->stopped_ns, err) ?: source_find_inherited(src, false, &ret->pages_inherited, err);
	ret->held_back = src->held_back;
	ret->scan_ns = phaul_now_ns() - start;
	return code ?: source_send_layout(src, ch, false, err) ?: source_send_pages(src, ch, false, ret, err) ?: note_told(src, err);
}

int64_t phaul_source_dirty(struct phaul_source *src, struct phaul_error *err)
{
	int64_t pages = shared_track_scan(&src->shared, err);

	for (size_t i = 0; i < src->count && pages >= 0; i++) {
		struct member *m = &src->members[i];
		int code;

		if (!m->tracked)
			continue;
		range_list_reset(&m->dirty);
		code = m->tracker.kind->scan(&m->tracker, &m->known, false, &m->dirty, err);
		if (code && (!i || !member_is_transient(m, code)))
			return code;
		pages += m->dirty.pages;
	}
	return pages;
}

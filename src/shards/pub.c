/* One .pub file: layout and checks. Nothing in the file is believed before it is checked against the file's size. */
#include <string.h>

#include "src/shards/shard.h"

static bool padded(size_t n, size_t each, size_t *out) {
  size_t bytes;
  if (pu_mul_overflows(n, each, &bytes) || pu_add_overflows(bytes, 7, &bytes)) return false;
  *out = bytes & ~(size_t)7;
  return true;
}

bool pu_pub_layout_of(const pu_pub_header *h, pu_pub_layout *out) {
  *out = (pu_pub_layout){0};
  size_t offsets;
  if (pu_add_overflows(h->documents, 1, &offsets)) return false;
  if (!padded(h->tokens, h->width, &out->size[PU_PUB_TOKENS])) return false;
  if (!padded(offsets, sizeof(uint64_t), &out->size[PU_PUB_OFFSETS])) return false;
  if (!padded(h->documents, sizeof(uint64_t), &out->size[PU_PUB_IDS])) return false;
  if (!padded(h->tokens / 8 + (h->tokens % 8 != 0), 1, &out->size[PU_PUB_MASKS])) return false;
  if (!padded(h->documents, sizeof(uint16_t), &out->size[PU_PUB_DOMAINS])) return false;
  size_t at = sizeof *h;
  for (int i = 0; i < PU_PUB_SECTIONS; i++) {
    if ((i == PU_PUB_MASKS && !(h->flags & PU_PUB_MASK)) || (i == PU_PUB_DOMAINS && !(h->flags & PU_PUB_DOMAIN)))
      continue;
    out->sections++;
    out->begin[i] = at;
    if (pu_add_overflows(at, out->size[i], &at)) return false;
  }
  out->footer = at;
  return !pu_add_overflows(at, (size_t)out->sections * sizeof(uint64_t), &out->total);
}

static pu_err check_header(const pu_pub_header *h, const char *name, pu_error *e) {
  if (memcmp(h->magic, PU_PUB_MAGIC, sizeof h->magic) != 0)
    return pu_fail(e, PU_ERR_FORMAT, "%s: not a token shard (it does not begin with " PU_PUB_MAGIC ")", name);
  if (h->version != PU_PUB_VERSION)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: version %u of the shard format; this puyu reads version %u", name,
                   h->version, PU_PUB_VERSION);
  if (pu_hash64(h, offsetof(pu_pub_header, hash), 0) != h->hash)
    return pu_fail(e, PU_ERR_FORMAT, "%s: the header's checksum is wrong; write the shard again", name);
  if (h->width != 2 && h->width != 4)
    return pu_fail(e, PU_ERR_FORMAT, "%s: token width %u (it is 2 or 4)", name, h->width);
  if ((h->flags & ~(PU_PUB_MASK | PU_PUB_DOMAIN)) != 0 || (h->reserved[0] | h->reserved[1] | h->reserved[2]) != 0)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: flags %#x are unknown to this puyu", name, h->flags);
  if (h->documents > h->tokens || (h->tokens > 0 && h->documents == 0))
    return pu_fail(e, PU_ERR_FORMAT, "%s: %llu documents cannot hold %llu tokens", name,
                   (unsigned long long)h->documents, (unsigned long long)h->tokens);
  return PU_OK;
}

/* Every document begins after the one before it, the first at 0, and the last ends with the tokens. */
static pu_err check_offsets(const pu_shard_file *f, const char *name, pu_error *e) {
  if (f->offsets[0] != 0 || f->offsets[f->documents] != f->tokens)
    return pu_fail(e, PU_ERR_FORMAT, "%s: the documents do not cover the tokens; write the shard again", name);
  for (uint64_t i = 0; i < f->documents; i++)
    if (f->offsets[i] >= f->offsets[i + 1])
      return pu_fail(e, PU_ERR_FORMAT, "%s: document %llu ends before it begins; write the shard again", name,
                     (unsigned long long)i);
  return PU_OK;
}

static pu_err check_hashes(const uint8_t *bytes, const pu_pub_layout *l, const char *name, pu_error *e) {
  static const char *const section[PU_PUB_SECTIONS] = {"tokens", "offsets", "document ids", "loss mask", "domains"};
  for (int i = 0, k = 0; i < PU_PUB_SECTIONS; i++) {
    if (l->begin[i] == 0) continue;
    uint64_t stored;
    memcpy(&stored, bytes + l->footer + (size_t)k++ * sizeof stored, sizeof stored);
    if (pu_hash64(bytes + l->begin[i], l->size[i], 0) != stored)
      return pu_fail(e, PU_ERR_FORMAT, "%s: the checksum of its %s (at byte %zu) is wrong; write the shard again", name,
                     section[i], l->begin[i]);
  }
  return PU_OK;
}

pu_err pu_pub_read(pu_str bytes, bool verify, const char *name, pu_shard_file *f, pu_error *e) {
  pu_pub_header h;
  if (bytes.len < sizeof h)
    return pu_fail(e, PU_ERR_FORMAT, "%s: %zu bytes are too few for a token shard", name, bytes.len);
  memcpy(&h, bytes.ptr, sizeof h);
  PU_TRY(check_header(&h, name, e));
  pu_pub_layout l;
  if (!pu_pub_layout_of(&h, &l) || l.total != bytes.len)
    return pu_fail(e, PU_ERR_FORMAT, "%s: the file has %zu bytes, not what its header promises (truncated?)", name,
                   bytes.len);
  const uint8_t *base = (const uint8_t *)bytes.ptr;
  f->width = (int)h.width;
  f->tokens = h.tokens;
  f->documents = h.documents;
  f->tokenizer = h.tokenizer;
  f->data = base + l.begin[PU_PUB_TOKENS];
  f->offsets = (const uint64_t *)(const void *)(base + l.begin[PU_PUB_OFFSETS]);
  f->ids = (const uint64_t *)(const void *)(base + l.begin[PU_PUB_IDS]);
  f->mask = l.begin[PU_PUB_MASKS] ? base + l.begin[PU_PUB_MASKS] : NULL;
  f->domains = l.begin[PU_PUB_DOMAINS] ? (const uint16_t *)(const void *)(base + l.begin[PU_PUB_DOMAINS]) : NULL;
  PU_TRY(check_offsets(f, name, e));
  return verify ? check_hashes(base, &l, name, e) : PU_OK;
}

/* Text to words to token ids: what `words.py` does, for a block of texts in one call.

What goes in: UTF-8 text, expressions as `expressions.py` spells them out (alternatives of repeated sets of characters),
the sets that each character is in, and the ids of words once the tokenizer has told them. What comes out: the ids of
the texts, and where answers begin and end among the words. `native.py` is the only caller; it says what each argument
is. Plain C99 without Python's headers: it is loaded by ctypes.

Nothing here knows Unicode or a tokenizer. A character whose sets nobody has given makes its text untold. Every position
is compared with the end of the text before it is read, every buffer grows before it is written to, and memory that
cannot be had is told by -1. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#ifndef SOURCE
#define SOURCE 0
#endif

typedef uint8_t byte;

enum { GREEDY, POSSESSIVE, NOT_AHEAD };
#define KNOWN (UINT32_C(1) << 31) /* in the sets of a character: they were given */
#define CODE_POINTS 0x110000

typedef struct { int32_t set, least, most, kind; } Item;        /* most: -1 for no bound */
typedef struct { int32_t first, last, tail, tail_end; } Branch; /* items first..last, then one of the branches tail..tail_end, if any */
typedef struct { int64_t key, length, ids, count; } Word;       /* key, ids: where they begin; count: -1 until learnt */
typedef struct { uint32_t hash; int32_t word; } Slot;           /* word: -1 where it is free */
typedef struct { int64_t start, end, word; int32_t added; } Mark;

typedef struct {
    void *at;
    int64_t used, room; /* in elements */
} Array;

typedef struct {
    const uint32_t *sets; /* of every code point; lives elsewhere */
    Array items, branches, levels;  /* levels: where each expression's branches end */
    Array openings, level_openings; /* the sets of which a character may begin a branch, or one of an expression's */
    Array added_text, added_ends, by_length;
    byte opens[256];
    Array slots, words, keys, ids;
    /* of the texts of the last call */
    Array numbers, ends, marks; /* words: their numbers, and where they end in the text; added tokens */
    const byte *text;
    enum { NUMBERING, LISTING, COMPARING } doing; /* with pieces: numbering words, listing ends, comparing with them */
    int unknown, torn;
    int64_t compared;
} Table;

static int grow(Array *array, int64_t more, size_t size) {
    int64_t wanted = array->used + more, room = array->room ? array->room : 64;
    void *at;
    if (wanted <= array->room) return 0;
    while (room < wanted) {
        if (room > INT64_MAX / 4 / (int64_t)size) return -1;
        room *= 2;
    }
    if ((uint64_t)room > SIZE_MAX / size || !(at = realloc(array->at, (size_t)room * size))) return -1;
    array->at = at;
    array->room = room;
    return 0;
}

static int append(Array *array, const void *from, int64_t count, size_t size) {
    if (grow(array, count, size)) return -1;
    if (count) memcpy((byte *)array->at + (size_t)array->used * size, from, (size_t)count * size);
    array->used += count;
    return 0;
}

#define AT(array, type) ((type *)(array).at)

/* ------------------------------------------------------------------------------------------------------ the table */

static uint64_t mixed(uint64_t a, uint64_t b) {
    a = (a ^ b) * UINT64_C(0x9E3779B97F4A7C15);
    return a ^ (a >> 29);
}

static uint32_t hashed(const byte *key, int64_t length) {
    uint64_t hash = (uint64_t)length * UINT64_C(0xD6E8FEB86659FD93), part;
    for (; length >= 8; key += 8, length -= 8) {
        memcpy(&part, key, 8);
        hash = mixed(hash, part);
    }
    part = 0;
    memcpy(&part, key, (size_t)length);
    hash = mixed(hash, part);
    return (uint32_t)(hash ^ (hash >> 32));
}

/* Twice as many places, at least. */
static int rehash(Table *table) {
    int64_t room = table->slots.room ? table->slots.room * 2 : 1 << 12, at, each;
    Slot *slots = room > INT32_MAX / 2 ? NULL : malloc((size_t)room * sizeof(Slot));
    if (!slots) return -1;
    for (at = 0; at < room; at++) slots[at].word = -1;
    for (each = 0; each < table->slots.room; each++) {
        Slot slot = AT(table->slots, Slot)[each];
        if (slot.word < 0) continue;
        for (at = slot.hash & (room - 1); slots[at].word >= 0; at = (at + 1) & (room - 1)) {}
        slots[at] = slot;
    }
    free(table->slots.at);
    table->slots.at = slots;
    table->slots.room = room;
    return 0;
}

/* The number of a word, which it gets when it is first met; -1 where there is no memory. */
static int64_t numbered(Table *table, const byte *key, int64_t length) {
    uint32_t hash = hashed(key, length);
    int64_t at, room;
    Word word = {table->keys.used, length, 0, -1};
    if (table->words.used * 2 >= table->slots.room && rehash(table)) return -1;
    room = table->slots.room;
    for (at = hash & (room - 1);; at = (at + 1) & (room - 1)) {
        Slot *slot = AT(table->slots, Slot) + at;
        if (slot->word < 0) {
            if (append(&table->keys, key, length, 1)) return -1;
            if (append(&table->words, &word, 1, sizeof word)) return -1;
            slot->hash = hash;
            slot->word = (int32_t)(table->words.used - 1);
            return slot->word;
        }
        if (slot->hash == hash) {
            const Word *known = AT(table->words, Word) + slot->word;
            if (known->length == length && !memcmp(AT(table->keys, byte) + known->key, key, (size_t)length))
                return slot->word;
        }
    }
}

/* -------------------------------------------------------------------------------------------------------- cutting */

/* The sets of the character at `at`, and its length. */
static uint32_t sets_at(Table *table, const byte *at, const byte *end, int64_t *length) {
    uint32_t point = *at, sets;
    int64_t each;
    *length = 1;
    if (point >= 0x80) {
        *length = point >= 0xF0 ? 4 : point >= 0xE0 ? 3 : 2;
        if (end - at < *length) *length = end - at; /* never in UTF-8 */
        point &= 0xFFu >> (*length + 1);
        for (each = 1; each < *length; each++) point = point << 6 | (at[each] & 0x3Fu);
        if (point >= CODE_POINTS) point = CODE_POINTS - 1;
    }
    sets = table->sets[point];
    if (!(sets & KNOWN)) table->unknown = 1;
    return sets;
}

static const byte *followed(Table *table, const Item *item, const Item *last, const byte *at, const byte *end) {
    int64_t count = 0, length;
    const byte *found;
    if (item == last) return at;
    if (item->kind == NOT_AHEAD)
        return at < end && sets_at(table, at, end, &length) >> item->set & 1
                   ? NULL
                   : followed(table, item + 1, last, at, end);
    while (count != item->most && at < end) {
        if (*at < 0x80) {
            if (!(table->sets[*at] >> item->set & 1)) break;
            at++;
        } else {
            if (!(sets_at(table, at, end, &length) >> item->set & 1)) break;
            at += length;
        }
        count++;
    }
    if (count < item->least) return NULL;
    if (item + 1 == last) return at;
    for (;;) {
        if ((found = followed(table, item + 1, last, at, end))) return found;
        if (count == item->least || item->kind == POSSESSIVE) return NULL;
        count--;
        do at--;
        while ((*at & 0xC0) == 0x80);
    }
}

/* Where the first of some branches that fits ends; NULL where none does. */
static const byte *matched(Table *table, int32_t first, int32_t last, const byte *at, const byte *end) {
    const Item *items = AT(table->items, Item);
    int64_t length;
    uint32_t sets = at < end ? sets_at(table, at, end, &length) : 0;
    for (; first < last; first++) {
        const Branch *branch = AT(table->branches, Branch) + first;
        const byte *found, *more;
        if (!(sets & AT(table->openings, uint32_t)[first])) continue;
        if (!(found = followed(table, items + branch->first, items + branch->last, at, end))) continue;
        if (branch->tail < branch->tail_end && (more = matched(table, branch->tail, branch->tail_end, found, end)))
            return more;
        return found;
    }
    return NULL;
}

static int emit(Table *table, const byte *at, const byte *end) {
    int64_t place = end - table->text, number;
    if (table->doing == COMPARING) {
        if (table->compared < table->ends.used && AT(table->ends, int64_t)[table->compared] == place) table->compared++;
        else table->torn = 1;
        return 0;
    }
    if (grow(&table->ends, 1, sizeof place)) return -1;
    AT(table->ends, int64_t)[table->ends.used++] = place;
    if (table->doing == LISTING) return 0;
    if ((number = numbered(table, at, end - at)) < 0 || grow(&table->numbers, 1, sizeof(int32_t))) return -1;
    AT(table->numbers, int32_t)[table->numbers.used++] = (int32_t)number;
    return 0;
}

/* A piece of text cut by one expression after the other; what stands between matches is a piece too. */
static int cut(Table *table, int64_t level, const byte *at, const byte *end) {
    const byte *gap = at, *found;
    const int32_t *levels = AT(table->levels, int32_t);
    uint32_t opening;
    if (level == table->levels.used) return emit(table, at, end);
    opening = AT(table->level_openings, uint32_t)[level];
    while (at < end) {
        if (*at < 0x80 && !(table->sets[*at] & opening)) {
            at++;
            continue;
        }
        found = matched(table, level ? levels[level - 1] : 0, levels[level], at, end);
        if (found && found > at) {
            if (gap < at && cut(table, level + 1, gap, at)) return -1;
            if (cut(table, level + 1, at, found)) return -1;
            gap = at = found;
        } else {
            do at++;
            while (at < end && (*at & 0xC0) == 0x80);
        }
    }
    return gap < end ? cut(table, level + 1, gap, end) : 0;
}

/* The longest added token that stands at `at`; -1 for none. */
static int32_t added_at(const Table *table, const byte *at, const byte *end, int64_t *length) {
    const int64_t *ends = AT(table->added_ends, int64_t);
    int64_t each;
    for (each = 0; each < table->by_length.used; each++) {
        int32_t added = AT(table->by_length, int32_t)[each];
        int64_t begin = added ? ends[added - 1] : 0;
        *length = ends[added] - begin;
        if (*length <= end - at && !memcmp(AT(table->added_text, byte) + begin, at, (size_t)*length)) return added;
    }
    return -1;
}

static int cut_text(Table *table, const byte *at, const byte *end) {
    const byte *gap = at;
    int64_t length;
    table->marks.used = 0;
    while (at < end) {
        Mark mark;
        if (!table->opens[*at] || (mark.added = added_at(table, at, end, &length)) < 0) {
            at++;
            continue;
        }
        if (gap < at && cut(table, 0, gap, at)) return -1;
        mark.start = at - table->text;
        mark.end = mark.start + length;
        mark.word = table->numbers.used;
        /* Added tokens are the first words of all. */
        if (append(&table->numbers, &mark.added, 1, sizeof mark.added)) return -1;
        if (append(&table->ends, &mark.end, 1, sizeof mark.end)) return -1;
        if (append(&table->marks, &mark, 1, sizeof mark)) return -1;
        gap = at = at + length;
    }
    return gap < end ? cut(table, 0, gap, end) : 0;
}

/* The word that begins at a place, where the words before it are those of the text up to there alone; else -1. Words do
not reach across an added token, so the stretch from the last one on decides. */
static int64_t word_at(Table *table, int64_t first, int64_t begin, int64_t place) {
    const Mark *marks = AT(table->marks, Mark);
    int64_t low = 0, high = table->marks.used;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (marks[middle].end <= place) low = middle + 1;
        else high = middle;
    }
    if (low < table->marks.used && marks[low].start < place) return -1;
    if (low) {
        begin = marks[low - 1].end;
        first = marks[low - 1].word + 1;
    }
    if (begin == place) return first;
    table->doing = COMPARING;
    table->torn = 0;
    table->compared = first;
    cut(table, 0, table->text + begin, table->text + place);
    table->doing = NUMBERING;
    return table->torn ? -1 : table->compared;
}

/* The word of the first added token from `start` to `bound` that ends an answer; -1 for none. */
static int64_t stop_in(const Table *table, int64_t start, int64_t bound, const byte *stops) {
    int64_t each;
    for (each = 0; each < table->marks.used; each++) {
        const Mark *mark = AT(table->marks, Mark) + each;
        if (mark->start >= start && mark->end <= bound && stops[mark->added]) return mark->word;
    }
    return -1;
}

/* ------------------------------------------------------------------------------------------------- what is called */

EXPORT void luthier_words_free(Table *table) {
    Array *arrays[] = {&table->items, &table->branches, &table->levels, &table->openings, &table->level_openings,
                       &table->added_text, &table->added_ends, &table->by_length, &table->slots, &table->words,
                       &table->keys, &table->ids, &table->numbers, &table->ends, &table->marks};
    size_t each;
    for (each = 0; each < sizeof arrays / sizeof *arrays; each++) free(arrays[each]->at);
    free(table);
}

/* Begin anew: only the added tokens are words, in their order, and none is learnt. */
EXPORT int luthier_words_forget(Table *table) {
    int64_t each, begin = 0;
    Array *arrays[] = {&table->slots, &table->words, &table->keys, &table->ids, &table->numbers, &table->ends};
    for (each = 0; each < (int64_t)(sizeof arrays / sizeof *arrays); each++) {
        free(arrays[each]->at);
        memset(arrays[each], 0, sizeof *arrays[each]);
    }
    for (each = 0; each < table->added_ends.used; each++) {
        int64_t end = AT(table->added_ends, int64_t)[each];
        if (numbered(table, AT(table->added_text, byte) + begin, end - begin) != each) return -1;
        begin = end;
    }
    return 0;
}

/* Which characters may begin each branch, and each expression's. */
static int open_branches(Table *table) {
    int64_t each, level = 0;
    uint32_t whole = 0;
    for (each = 0; each < table->branches.used; each++) {
        const Branch *branch = AT(table->branches, Branch) + each;
        const Item *item = AT(table->items, Item) + branch->first, *last = AT(table->items, Item) + branch->last;
        uint32_t opening = 0;
        for (; item < last; item++) {
            if (item->kind == NOT_AHEAD) continue;
            opening |= UINT32_C(1) << item->set;
            if (item->least) break;
        }
        if (append(&table->openings, &opening, 1, sizeof opening)) return -1;
        whole |= opening;
        if (level < table->levels.used && each + 1 == AT(table->levels, int32_t)[level]) {
            if (append(&table->level_openings, &whole, 1, sizeof whole)) return -1;
            whole = 0;
            level++;
        }
    }
    return 0;
}

/* added: the texts of the added tokens, different and none empty, ending at added_ends [added_count]; by_length: their
numbers, the longest first. NULL where there is no memory. */
EXPORT Table *luthier_words_new(const uint32_t *sets, const int32_t *items, int64_t item_count, const int32_t *branches,
                                int64_t branch_count, const int32_t *levels, int64_t level_count, const byte *added,
                                const int64_t *added_ends, const int32_t *by_length, int64_t added_count) {
    Table *table = calloc(1, sizeof *table);
    int64_t each;
    if (!table) return NULL;
    table->sets = sets;
    if (append(&table->items, items, item_count, sizeof(Item)) ||
        append(&table->branches, branches, branch_count, sizeof(Branch)) ||
        append(&table->levels, levels, level_count, sizeof(int32_t)) ||
        append(&table->added_text, added, added_count ? added_ends[added_count - 1] : 0, 1) ||
        append(&table->added_ends, added_ends, added_count, sizeof(int64_t)) ||
        append(&table->by_length, by_length, added_count, sizeof(int32_t)) || open_branches(table) ||
        luthier_words_forget(table)) {
        luthier_words_free(table);
        return NULL;
    }
    for (each = 0; each < added_count; each++)
        table->opens[AT(table->added_text, byte)[each ? added_ends[each - 1] : 0]] = 1;
    return table;
}

/* Cut texts that end at text_ends [text_count]. answers [A, 3]: start and bound of each, and whether it is learnt; those
of a text end at answer_ends [text_count]. stops: of every added token, whether it ends an answer. Written: told
[text_count], 0 for a text that is left out; word_ends [text_count] and spans [A, 2], first word and stop of what is
learnt (-1 for what is not), in words of all texts. Returns how many words there are, -1 where there is no memory. */
EXPORT int64_t luthier_words_cut(Table *table, const byte *text, const int64_t *text_ends, int64_t text_count,
                                 const int64_t *answers, const int64_t *answer_ends, const byte *stops, byte *told,
                                 int64_t *word_ends, int64_t *spans) {
    int64_t each, answer = 0, begin = 0;
    table->text = text;
    table->numbers.used = table->ends.used = 0;
    for (each = 0; each < text_count; each++) {
        int64_t first = table->numbers.used;
        table->unknown = 0;
        told[each] = 1;
        if (cut_text(table, text + begin, text + text_ends[each])) return -1;
        for (; answer < answer_ends[each]; answer++) {
            int64_t start = answers[3 * answer], bound = answers[3 * answer + 1], learnt = answers[3 * answer + 2];
            int64_t word = word_at(table, first, begin, start);
            int64_t stop = learnt ? stop_in(table, start, bound, stops) : -1;
            spans[2 * answer] = learnt ? word : -1;
            spans[2 * answer + 1] = stop;
            if (word < 0 || (learnt && stop < 0)) told[each] = 0;
        }
        if (table->unknown) told[each] = 0;
        if (!told[each]) table->numbers.used = table->ends.used = first;
        word_ends[each] = table->numbers.used;
        begin = text_ends[each];
    }
    return table->numbers.used;
}

/* Where the words of one text without added tokens end, at most `length` of them; their number, -1 where there is no
memory, or a character whose sets nobody has given. */
EXPORT int64_t luthier_words_pieces(Table *table, const byte *text, int64_t length, int64_t *ends) {
    int failed;
    table->text = text;
    table->numbers.used = table->ends.used = 0;
    table->unknown = 0;
    table->doing = LISTING;
    failed = length && cut(table, 0, text, text + length);
    table->doing = NUMBERING;
    if (failed || table->unknown) return -1;
    if (table->ends.used) memcpy(ends, table->ends.at, (size_t)table->ends.used * sizeof *ends);
    return table->ends.used;
}

EXPORT int64_t luthier_words_count(const Table *table) { return table->words.used; }

EXPORT int64_t luthier_words_bytes(const Table *table) { return table->keys.used; }

/* The words from number `first` on, one behind the other; their ends go to `ends`. */
EXPORT const byte *luthier_words_keys(const Table *table, int64_t first, int64_t *ends) {
    int64_t each, begin = first < table->words.used ? AT(table->words, Word)[first].key : 0;
    for (each = first; each < table->words.used; each++) {
        const Word *word = AT(table->words, Word) + each;
        ends[each - first] = word->key + word->length - begin;
    }
    return AT(table->keys, byte) + begin;
}

/* ids of the words first..first + count, ending at `ends`. */
EXPORT int luthier_words_learn(Table *table, int64_t first, int64_t count, const int32_t *ids, const int64_t *ends) {
    int64_t each, begin = table->ids.used, total = count ? ends[count - 1] : 0;
    if (first < 0 || count < 0 || first + count > table->words.used) return -1;
    if (append(&table->ids, ids, total, sizeof *ids)) return -1;
    for (each = 0; each < count; each++) {
        Word *word = AT(table->words, Word) + first + each;
        word->ids = begin + (each ? ends[each - 1] : 0);
        word->count = ends[each] - (each ? ends[each - 1] : 0);
    }
    return 0;
}

/* How many ids the words of the last call have; -1 where one is not learnt. */
EXPORT int64_t luthier_words_length(const Table *table) {
    int64_t each, total = 0;
    for (each = 0; each < table->numbers.used; each++) {
        int64_t count = AT(table->words, Word)[AT(table->numbers, int32_t)[each]].count;
        if (count < 0) return -1;
        total += count;
    }
    return total;
}

/* Those ids, and where each word's begin and end among them: borders [words + 1]. */
EXPORT void luthier_words_ids(const Table *table, int32_t *ids, int64_t *borders) {
    int64_t each, id, total = 0;
    borders[0] = 0;
    for (each = 0; each < table->numbers.used; each++) {
        const Word *word = AT(table->words, Word) + AT(table->numbers, int32_t)[each];
        const int32_t *from = AT(table->ids, int32_t) + word->ids;
        for (id = 0; id < word->count; id++) ids[total + id] = from[id];
        borders[each + 1] = total += word->count;
    }
}

/* What it was built of (`setup.py`). */
EXPORT uint32_t luthier_words_source(void) { return SOURCE; }

/* Windows asks an extension for this; nobody imports it. */
EXPORT void *PyInit__native(void) { return NULL; }

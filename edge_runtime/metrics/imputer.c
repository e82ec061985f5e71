/* ROAD's linear imputation, compiled: the algorithm of multigrid.py (read its first comment), one plane after the other.
 *
 * Built where a C compiler is at hand, and loaded by compiled.py; without it multigrid.py does the same, more slowly.
 * A plane is one run of floats, `stride` = width + 1 to a row; the extra column and the rows around the plane are zero, so
 * that neighbours are plain shifts of the run. One plane with all its fields fits the first-level cache at 32x32.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define THETA 0.68f
#define LEAST_SHARE 0.15f
#define COARSEST_SWEEPS 3
#define COARSE 32
#define MAX_GRIDS 16
#define TINY 1e-30f

/* The loops are plain so that compilers vectorise them: for three x86-64 generations, chosen when the library loads. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
#define DISPATCHED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"), flatten))
#else
#define DISPATCHED
#endif
#define LOOP static inline __attribute__((always_inline)) void
#define ZERO_ROWS 2

/* What Python passes: arrays are C-contiguous; the result of image n at level l starts at
 * out + (l * images + n) * channels * height * width. noise holds one pointer per image, or is null. */
typedef struct {
    int32_t channels, height, width, levels, max_iterations;
    int64_t images;
    const float *values;       /* [images, channels, height, width], the originals */
    const float *middle;       /* [images, channels] */
    const float *half;         /* [images, channels]: (value - middle) / half lies within -1 .. 1; 0 for a flat plane */
    const int32_t *rank;       /* [images, height, width] */
    const int32_t *thresholds; /* [levels], ascending: pixels of lower rank are removed */
    const float *const *noise;
    float limit; /* on r'Br */
    float *out;
} Task;

typedef struct {
    int height, width, stride, run; /* run: height * stride, the plane without the zero rows around it */
    float *free, *smoother, *sums;  /* of the mask: f, f / (THETA d), d */
    float *r, *u, *t, *work;
} Grid;

static float *field(float **memory, const Grid *g) {
    float *start = *memory + ZERO_ROWS * g->stride + 1;
    *memory += (size_t)g->run + 2 * ZERO_ROWS * g->stride + 2;
    return start;
}

static int line_sum(int at, int length) { return 4 - (at == 0) - (at == length - 1); }

/* t = horizontal (1, 2, 1) of x, from the row above the plane to the row below it */
LOOP blur_rows(const Grid *g, const float *restrict x, float *restrict t) {
    for (int i = -g->stride; i < g->run + g->stride; i++) t[i] = x[i - 1] + 2 * x[i] + x[i + 1];
}

#define BLURRED(t, i) (t[(i) - stride] + 2 * t[i] + t[(i) + stride])

/* u = f (r + SS u) / (THETA d) - k u */
LOOP smooth(const Grid *g, float k) {
    const int stride = g->stride;
    const float *restrict t = g->t, *restrict r = g->r, *restrict s = g->smoother;
    float *restrict u = g->u;
    blur_rows(g, u, g->t);
    for (int i = 0; i < g->run; i++) u[i] = s[i] * (r[i] + BLURRED(t, i)) - k * u[i];
}

LOOP multiply(int n, const float *restrict a, const float *restrict b, float *restrict y) {
    for (int i = 0; i < n; i++) y[i] = a[i] * b[i];
}

static inline __attribute__((always_inline)) float dot(int n, const float *restrict a, const float *restrict b) {
    float lanes[16] = {0}, sum = 0;
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++) lanes[j] += a[i + j] * b[i + j];
    for (; i < n; i++) sum += a[i] * b[i];
    for (int j = 0; j < 16; j++) sum += lanes[j];
    return sum;
}

/* coarse r = (1, 3, 3, 1) x (1, 3, 3, 1) of fine work; line is a scratch row with zeros around it */
LOOP restrict_residual(const Grid *fine, const Grid *coarse, float *restrict line) {
    const int stride = fine->stride, n = fine->width;
    line[-1] = line[n] = line[n + 1] = line[n + 2] = 0;
    for (int y = 0; y < coarse->height; y++) {
        const float *restrict a = fine->work + 2 * y * stride;
        float *restrict target = coarse->r + y * coarse->stride;
        for (int x = 0; x < n; x++) line[x] = a[x - stride] + 3 * (a[x] + a[x + stride]) + a[x + 2 * stride];
        for (int x = 0; x < coarse->width; x++)
            target[x] = line[2 * x - 1] + 3 * (line[2 * x] + line[2 * x + 1]) + line[2 * x + 2];
    }
}

/* fine u += THETA^2 f / (THETA d) ((3, 1) x (3, 1) coarse u): restriction left its factor THETA to this step */
LOOP add_correction(const Grid *fine, const Grid *coarse, float *restrict line) {
    for (int y = 0; y < fine->height; y++) {
        const float *restrict near = coarse->u + (y / 2) * coarse->stride;
        const float *restrict far = near + (y % 2 ? coarse->stride : -coarse->stride);
        const float *restrict s = fine->smoother + y * fine->stride;
        float *restrict u = fine->u + y * fine->stride, *restrict row = fine->work + y * fine->stride;
        for (int x = -1; x <= coarse->width; x++) line[x] = THETA * THETA * (3 * near[x] + far[x]);
        for (int x = 0; x < (fine->width + 1) / 2; x++) {
            row[2 * x] = 3 * line[x] + line[x - 1];
            if (2 * x + 1 < fine->width) row[2 * x + 1] = 3 * line[x] + line[x + 1];
        }
        for (int x = 0; x < fine->width; x++) u[x] += s[x] * row[x];
    }
}

/* u = B r on grids[0], by one symmetric V-cycle down to grids[depth] */
LOOP v_cycle(const Grid *grids, int depth, int last, float *line) {
    const float k = 1 / THETA - 1;
    for (int level = 0; level < depth; level++) {
        const Grid *g = grids + level;
        const int stride = g->stride;
        const float *restrict t = g->t, *restrict r = g->r, *restrict s = g->smoother;
        float *restrict w = g->work;
        multiply(g->run, r, s, g->u);
        blur_rows(g, g->u, g->t);
        for (int i = 0; i < g->run; i++) w[i] = s[i] * (BLURRED(t, i) - k * r[i]);
        restrict_residual(g, g + 1, line);
    }
    multiply(grids[depth].run, grids[depth].r, grids[depth].smoother, grids[depth].u);
    for (int sweep = 0; sweep < (last ? COARSEST_SWEEPS : 1); sweep++) smooth(grids + depth, k);
    for (int level = depth - 1; level >= 0; level--) {
        add_correction(grids + level, grids + level + 1, line);
        smooth(grids + level, k);
    }
}

/* Free shares and smoothers of all grids from grids[0].free; returns the last grid that has a free pixel. */
static int set_up(Grid *grids, int count) {
    int depth = 0;
    for (int level = 0; level < count; level++) {
        Grid *g = grids + level;
        int any = 0;
        for (int y = 0; y < g->height; y++)
            for (int x = 0; x < g->width; x++) {
                int i = y * g->stride + x;
                if (level) {
                    const Grid *fine = g - 1;
                    int below = 2 * y + 1 < fine->height, right = 2 * x + 1 < fine->width;
                    const float *f = fine->free + 2 * y * fine->stride + 2 * x;
                    float mean = (f[0] + (right ? f[1] : 1) + (below ? f[fine->stride] : 1) +
                                  (below && right ? f[fine->stride + 1] : 1)) / 4;
                    if (level > 1) mean = mean * mean * mean;
                    g->free[i] = mean >= LEAST_SHARE ? mean : 0;
                }
                g->smoother[i] = g->free[i] / (THETA * g->sums[i]);
                any |= g->free[i] > 0;
            }
        if (any) depth = level;
    }
    return depth;
}

/* r = (SS - d) x from differences of neighbours, which round far less than the difference of the two sums:
 * with S = D + s along each axis (D: differences to the in-bounds neighbours, s: line sum), SS - d = S D_x + s_x D_y. */
LOOP residual(const Grid *g, const float *restrict x, float *restrict t, float *restrict r) {
    const int stride = g->stride, width = g->width, height = g->height;
    for (int y = 0; y < height; y++) {
        const float *restrict row = x + y * stride;
        float *restrict target = t + y * stride;
        for (int c = 0; c < width; c++) target[c] = (row[c - 1] - row[c]) + (row[c + 1] - row[c]);
        target[0] = width > 1 ? row[1] - row[0] : 0; /* the zeros outside are no neighbours */
        if (width > 1) target[width - 1] = row[width - 2] - row[width - 1];
        target[width] = 0;
    }
    for (int i = -stride; i < 0; i++) t[i] = 0;
    for (int i = g->run; i < g->run + stride; i++) t[i] = 0;
    for (int y = 0; y < height; y++) {
        const int above = y ? -stride : 0, below = y < height - 1 ? stride : 0;
        const float *restrict row = x + y * stride, *restrict blurred = t + y * stride;
        float *restrict target = r + y * stride;
        for (int c = 0; c < width; c++)
            target[c] = (blurred[c - stride] + 2 * blurred[c] + blurred[c + stride]) +
                        line_sum(c, width) * ((row[c + above] - row[c]) + (row[c + below] - row[c]));
        target[width] = 0;
    }
}

/* Conjugate gradients on one plane x, removed pixels unknown; p and q are scratch: first to COARSE times the limit, then,
 * from a residual that holds no rounding of the steps so far, to the limit. Returns 0, or 1 without convergence. */
DISPATCHED static int solve(const Grid *grids, int depth, int last, float *restrict x, float *restrict p,
                            float *restrict q, float *line, float limit, int max_iterations) {
    const Grid *g = grids;
    const int stride = g->stride, n = g->run;
    const float *restrict d = g->sums, *restrict t = g->t, *restrict u = g->u;
    float *restrict r = g->r;
    const float limits[] = {COARSE * COARSE * limit, limit};
    for (int phase = 0; phase < 2; phase++) {
        float previous = INFINITY;
        int iteration = 0;
        residual(g, x, g->t, r);
        memset(p, 0, n * sizeof(float));
        for (;; iteration++) {
            if (iteration == max_iterations) return 1;
            v_cycle(grids, depth, last, line);
            float energy = dot(n, r, u);
            if (energy <= limits[phase]) {
                for (int i = 0; i < n; i++) x[i] += u[i];
                if (!iteration && energy <= limit) return 0; /* nothing was rounded yet */
                break;
            }
            float beta = energy / previous;
            for (int i = 0; i < n; i++) p[i] = u[i] + beta * p[i];
            blur_rows(g, p, g->t);
            for (int i = 0; i < n; i++) q[i] = d[i] * p[i] - BLURRED(t, i);
            float curvature = dot(n, p, q), step = energy / (curvature > TINY ? curvature : TINY);
            for (int i = 0; i < n; i++) {
                x[i] += step * p[i];
                r[i] -= step * q[i];
            }
            previous = energy;
        }
    }
    return 0;
}

static void write_level(const Task *task, const Grid *g, const float *x, int64_t image, int channel, int level) {
    const int64_t area = (int64_t)task->height * task->width, plane = image * task->channels + channel;
    const float *original = task->values + plane * area;
    const float *noise = task->noise ? task->noise[image] + channel * area : NULL;
    const int32_t *rank = task->rank + image * area;
    float *out = task->out + (level * task->images * task->channels + plane) * area;
    for (int y = 0; y < task->height; y++)
        for (int c = 0; c < task->width; c++) {
            int64_t i = (int64_t)y * task->width + c;
            float value = x[y * g->stride + c] * task->half[plane] + task->middle[plane] + (noise ? noise[i] : 0);
            out[i] = rank[i] < task->thresholds[level] ? value : original[i];
        }
}

static void read_plane(const Task *task, const Grid *g, float *x, int64_t image, int channel) {
    const int64_t area = (int64_t)task->height * task->width, plane = image * task->channels + channel;
    const float *original = task->values + plane * area;
    float scale = task->half[plane] > 0 ? 1 / task->half[plane] : 0;
    for (int y = 0; y < task->height; y++)
        for (int c = 0; c < task->width; c++)
            x[y * g->stride + c] = (original[(int64_t)y * task->width + c] - task->middle[plane]) * scale;
}

static int impute_image(const Task *task, Grid *grids, int count, float **planes, float *p, float *q, float *line,
                        int64_t image) {
    const int32_t *rank = task->rank + image * task->height * task->width;
    for (int c = 0; c < task->channels; c++) read_plane(task, grids, planes[c], image, c);
    for (int level = 0; level < task->levels; level++) {
        for (int y = 0; y < task->height; y++)
            for (int x = 0; x < task->width; x++)
                grids->free[y * grids->stride + x] = rank[(int64_t)y * task->width + x] < task->thresholds[level];
        int depth = set_up(grids, count);
        for (int c = 0; c < task->channels; c++) {
            if (solve(grids, depth, depth == count - 1, planes[c], p, q, line, task->limit, task->max_iterations))
                return 1;
            write_level(task, grids, planes[c], image, c, level);
        }
    }
    return 0;
}

/* Imputes images first .. last - 1 at all levels. Returns 0; 1 without convergence; 2 without memory. */
int roadworthy_impute(const Task *task, int64_t first, int64_t last) {
    Grid grids[MAX_GRIDS];
    int count = 0, height = task->height, width = task->width;
    size_t floats = 2 * (size_t)width + 16;
    for (;; height = (height + 1) / 2, width = (width + 1) / 2) {
        int stride = width + 1, fields = 7 + (count ? 0 : 2 + task->channels);
        grids[count] = (Grid){.height = height, .width = width, .stride = stride, .run = height * stride};
        floats += fields * ((size_t)height * stride + 2 * ZERO_ROWS * stride + 2);
        count++;
        if ((height <= 2 && width <= 2) || count == MAX_GRIDS) break;
    }
    float *block = calloc(floats, sizeof(float)), *memory = block;
    float **planes = malloc(task->channels * sizeof(float *));
    int failed = block && planes ? 0 : 2;
    if (!failed) {
        for (int i = 0; i < count; i++) {
            Grid *g = grids + i;
            float **fields[] = {&g->free, &g->smoother, &g->sums, &g->r, &g->u, &g->t, &g->work};
            for (size_t j = 0; j < sizeof fields / sizeof *fields; j++) *fields[j] = field(&memory, g);
            for (int y = 0; y < g->height; y++)
                for (int x = 0; x < g->width; x++)
                    g->sums[y * g->stride + x] = line_sum(y, g->height) * line_sum(x, g->width);
        }
        float *p = field(&memory, grids), *q = field(&memory, grids), *line;
        for (int c = 0; c < task->channels; c++) planes[c] = field(&memory, grids);
        line = memory + 4;
        for (int64_t image = first; image < last && !failed; image++)
            failed = impute_image(task, grids, count, planes, p, q, line, image);
    }
    free(planes);
    free(block);
    return failed;
}

/* Lets Python refuse a library built from another version of this file. */
int64_t roadworthy_task_size(void) { return (int64_t)sizeof(Task); }

/* Python finds this library as an extension module's file but loads it as a plain one, so that no Python headers are
 * needed to build it. */
void *PyInit__imputer(void) { return NULL; }

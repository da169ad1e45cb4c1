/* A small software rasterizer for heads: z-buffer, one shadow map, shaded skin, eyes, hair, cloth and plain objects.
 *
 * rasterizer.py compiles it, describes the arguments, and has the same struct View. Colors are linear.
 * Length unit: a decimeter. x to the person's left, y up, z toward the camera, which looks down -z.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct { float x, y, z; } vec3;
typedef struct { float direction[3], color[3]; } Light;

enum { SKIN, EYE_LEFT, EYE_RIGHT, TEETH, MOUTH, LASHES, HAIR, CLOTH, SOLID, BROW, BEARD, FABRIC };
enum { NO_CLOTH, CREW, V_NECK, STRIPES, SHIRT, JACKET, TURTLENECK };

typedef struct {
  float camera[3], focal, center[2];
  float head[9];  /* rotation of the head, row-major */
  Light key, fill, rim;
  float sky[3], ground[3];
  float skin_shine, bump;
  float lips[3], lip_strength, lip_gloss;
  float hair[3], hair_streaks[3], hair_shine, brow[3], beard[3];
  float eye_left[3], eye_right[3], gaze[3], iris_radius, pupil, iris_inner[3], iris_outer[3], sclera[3], liner;
  float cloth_kind, cloth[3], cloth_second[3], neckline, neckline_tilt, neckline_depth;
} View;

static vec3 vec(const float *p) { return (vec3){p[0], p[1], p[2]}; }
static vec3 add(vec3 a, vec3 b) { return (vec3){a.x + b.x, a.y + b.y, a.z + b.z}; }
static vec3 sub(vec3 a, vec3 b) { return (vec3){a.x - b.x, a.y - b.y, a.z - b.z}; }
static vec3 scale(vec3 a, float s) { return (vec3){a.x * s, a.y * s, a.z * s}; }
static float dot(vec3 a, vec3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
static vec3 cross(vec3 a, vec3 b) { return (vec3){a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x}; }
static vec3 unit(vec3 a) { return scale(a, 1 / (sqrtf(dot(a, a)) + 1e-9f)); }
static vec3 rotate(const float *r, vec3 p) {
  return (vec3){r[0] * p.x + r[1] * p.y + r[2] * p.z, r[3] * p.x + r[4] * p.y + r[5] * p.z, r[6] * p.x + r[7] * p.y + r[8] * p.z};
}
static float clamp01(float x) { return x < 0 ? 0 : x > 1 ? 1 : x; }
static float smooth(float from, float to, float x) {
  float t = clamp01((x - from) / (to - from));
  return t * t * (3 - 2 * t);
}
static float mix(float a, float b, float t) { return a + (b - a) * t; }

static float hashed(uint32_t x) { /* 0 to 1 */
  x ^= x >> 16; x *= 0x7feb352dU; x ^= x >> 15; x *= 0x846ca68bU; x ^= x >> 16;
  return (x & 0xffffff) / (float)0x1000000;
}
static float noise(vec3 p, uint32_t seed) { /* value noise, 0 to 1 */
  int x = (int)floorf(p.x), y = (int)floorf(p.y), z = (int)floorf(p.z);
  float a = p.x - x, b = p.y - y, c = p.z - z, sum = 0;
  a = a * a * (3 - 2 * a); b = b * b * (3 - 2 * b); c = c * c * (3 - 2 * c);
  for (int i = 0; i < 8; i++) {
    uint32_t cell = (uint32_t)(x + (i & 1)) * 73856093u ^ (uint32_t)(y + (i >> 1 & 1)) * 19349663u ^ (uint32_t)(z + (i >> 2)) * 83492791u;
    sum += ((i & 1) ? a : 1 - a) * ((i >> 1 & 1) ? b : 1 - b) * ((i >> 2) ? c : 1 - c) * hashed(cell ^ seed);
  }
  return sum;
}

/* Draw triangles into a z-buffer. ``screen`` holds x and y in pixels, depth (larger is farther), and 1/w of each vertex. */
static void raster(const float *screen, int count, const int *triangles, const uint8_t *hidden, int width, int height,
                   float *depth, int *owner, float *weights) {
  for (int t = 0; t < count; t++) {
    if (hidden && hidden[t]) continue;
    const float *a = screen + 4 * triangles[3 * t], *b = screen + 4 * triangles[3 * t + 1], *c = screen + 4 * triangles[3 * t + 2];
    float area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
    if (fabsf(area) < 1e-12f) continue;
    int left = (int)ceilf(fminf(a[0], fminf(b[0], c[0])) - 0.5f), right = (int)floorf(fmaxf(a[0], fmaxf(b[0], c[0])) - 0.5f);
    int top = (int)ceilf(fminf(a[1], fminf(b[1], c[1])) - 0.5f), bottom = (int)floorf(fmaxf(a[1], fmaxf(b[1], c[1])) - 0.5f);
    if (left < 0) left = 0;
    if (top < 0) top = 0;
    if (right >= width) right = width - 1;
    if (bottom >= height) bottom = height - 1;
    for (int y = top; y <= bottom; y++) {
      float py = y + 0.5f;
      for (int x = left; x <= right; x++) {
        float px = x + 0.5f;
        float wa = ((b[0] - px) * (c[1] - py) - (b[1] - py) * (c[0] - px)) / area;
        float wb = ((c[0] - px) * (a[1] - py) - (c[1] - py) * (a[0] - px)) / area;
        float wc = 1 - wa - wb;
        if (wa < 0 || wb < 0 || wc < 0) continue;
        float z = wa * a[2] + wb * b[2] + wc * c[2];
        int i = y * width + x;
        if (z >= depth[i]) continue;
        depth[i] = z;
        if (owner) { /* perspective-correct weights of the first two corners */
          float qa = wa * a[3], qb = wb * b[3], sum = qa + qb + wc * c[3];
          owner[i] = t;
          weights[2 * i] = qa / sum;
          weights[2 * i + 1] = qb / sum;
        }
      }
    }
  }
}

void depth_only(const float *screen, int count, const int *triangles, int width, int height, float *depth) {
  for (int i = 0; i < width * height; i++) depth[i] = 1e9f;
  raster(screen, count, triangles, 0, width, height, depth, 0, 0);
}

/* Bilinear sample of a texture of four channels that wraps around in x. */
static void sample(const float *texture, int width, int height, float u, float v, float *out) {
  u = u * width - 0.5f; v = v * height - 0.5f;
  int x = (int)floorf(u), y = (int)floorf(v);
  float a = u - x, b = v - y;
  int x1 = ((x + 1) % width + width) % width, y0 = y < 0 ? 0 : y >= height ? height - 1 : y, y1 = y + 1 < 0 ? 0 : y + 1 >= height ? height - 1 : y + 1;
  x = (x % width + width) % width;
  for (int k = 0; k < 4; k++) {
    float upper = mix(texture[4 * (y0 * width + x) + k], texture[4 * (y0 * width + x1) + k], a);
    float lower = mix(texture[4 * (y1 * width + x) + k], texture[4 * (y1 * width + x1) + k], a);
    out[k] = mix(upper, lower, b);
  }
}

typedef struct { float *map; int side; vec3 middle, across, up, light; float scale; } Shadow;

static vec3 to_light(const Shadow *s, vec3 p) {
  p = sub(p, s->middle);
  return (vec3){s->side * 0.5f + s->scale * dot(p, s->across), s->side * 0.5f - s->scale * dot(p, s->up), -dot(p, s->light)};
}
/* Share of the key light that reaches a point: 3x3 samples. */
static float lit_share(const Shadow *s, vec3 p, float bias) {
  vec3 q = to_light(s, p);
  float sum = 0;
  for (int dy = -1; dy <= 1; dy++)
    for (int dx = -1; dx <= 1; dx++) {
      int x = (int)floorf(q.x + dx * 1.3f), y = (int)floorf(q.y + dy * 1.3f);
      if (x < 0 || y < 0 || x >= s->side || y >= s->side) sum += 1;
      else sum += 1 - clamp01((q.z - bias - s->map[y * s->side + x]) / 0.06f);
    }
  return sum / 9;
}

typedef struct {
  vec3 position, normal, rest, tangent, eye; /* eye: unit vector toward the camera; rest: position in the rest pose */
  float attributes[4];                       /* by material: occlusion, then lips and mouth, or strand values, or a color */
  float occlusion, lit;                      /* 0 dark to 1 open; 0 in shadow to 1 lit by the key light */
} Point;
typedef struct { float albedo[3], light[3], shine[3]; } Shade;

static void ambient(const View *v, float up, float occlusion, float *light) {
  float sky = 0.5f + 0.5f * up;
  for (int k = 0; k < 3; k++) light[k] = (v->ground[k] * (1 - sky) + v->sky[k] * sky) * occlusion;
}

/* Height of the neckline above a point of the body in rest pose: positive below the cloth's edge. */
static float below_neckline(const View *v, vec3 rest) {
  float height = v->neckline + v->neckline_tilt * rest.z + 0.5f * fmaxf(0, fabsf(rest.x) - 0.9f); /* shoulders are covered */
  int kind = (int)v->cloth_kind;
  if (kind == TURTLENECK) height += 0.42f;
  if ((kind == V_NECK || kind == SHIRT || kind == JACKET) && rest.z > 0.2f) {
    float depth = kind == V_NECK ? v->neckline_depth : kind == SHIRT ? 0.45f : 0.3f;
    height -= fmaxf(0, depth - fabsf(rest.x) * 2) * smooth(0.2f, 0.8f, rest.z);
  }
  return height - rest.y;
}

static void cloth_color(const View *v, vec3 p, float edge, float *albedo) {
  int kind = (int)v->cloth_kind;
  float weave = 0.84f + 0.15f * noise(scale(p, 6), 7) + 0.18f * noise(scale(p, 40), 9);
  const float *color = v->cloth;
  float shade = edge < 0.09f ? 0.82f : 1;
  if (kind == STRIPES && sinf(p.y * 26) > 0.2f) color = v->cloth_second;
  if (kind == SHIRT) {
    float collar = smooth(0.30f, 0.27f, edge);
    shade = mix(1, 1.12f, collar) * (fabsf(edge - 0.29f) < 0.025f ? 0.72f : 1);
    if (p.z > 0.3f && fabsf(fabsf(p.x) - 0.11f) < 0.014f && edge > 0.3f) shade *= 0.8f; /* placket */
    float row = p.y * 2.6f - floorf(p.y * 2.6f) - 0.5f;
    if (p.z > 0.3f && p.x * p.x + row * row * 0.148f < 0.0011f && edge > 0.3f) color = v->cloth_second; /* buttons */
  }
  if (kind == JACKET && p.z > 0.2f) { /* lapels over a shirt of the second color */
    float opening = 0.34f - 0.30f * (5.95f - p.y) / 1.6f;
    float beside = fabsf(p.x) - opening;
    if (beside < 0) color = v->cloth_second, shade = 0.95f;
    else if (beside < 0.03f) shade = 0.6f;
    else if (beside < 0.26f) shade = 1.12f;
    else if (beside < 0.29f) shade = 0.72f;
  }
  for (int k = 0; k < 3; k++) albedo[k] = color[k] * weave * shade;
}

/* Albedo of skin, and its bumps in the point's normal. Returns how much of the point is lip. */
static float skin_color(const View *v, Point *p, const float *texture, int width, int height, float *albedo) {
  float azimuth = atan2f(p->rest.x, p->rest.z - 0.25f);
  float u = azimuth / 6.2831853f + 0.5f, w = (8.7f - p->rest.y) / 3.4f, here[4], right[4], above[4];
  sample(texture, width, height, u, w, here);
  sample(texture, width, height, u + 1.0f / width, w, right);
  sample(texture, width, height, u, w - 1.0f / height, above);
  float lip = clamp01(p->attributes[1]), inside = clamp01(p->attributes[2]);
  static const float flesh[3] = {0.32f, 0.09f, 0.08f};
  for (int k = 0; k < 3; k++) {
    float color = v->lips[k];
    float painted = mix(here[k] * color / 0.6f, color, 0.55f);
    albedo[k] = mix(mix(here[k], painted, lip * v->lip_strength), flesh[k], inside);
  }
  vec3 sideways = rotate(v->head, (vec3){cosf(azimuth), 0, -sinf(azimuth)}), up = rotate(v->head, (vec3){0, 1, 0});
  vec3 slope = add(scale(sideways, (right[3] - here[3]) * v->bump), scale(up, (above[3] - here[3]) * v->bump));
  p->normal = unit(sub(p->normal, slope));
  return lip;
}

static void shade_eye(const View *v, const Point *p, const float *middle, Shade *out) {
  vec3 gaze = unit(vec(v->gaze)), d = unit(sub(p->position, vec(middle)));
  vec3 across = unit(cross((vec3){0, 1, 0}, gaze)), up = cross(gaze, across);
  float angle = acosf(clamp01(dot(d, gaze))), around = atan2f(dot(d, up), dot(d, across));
  float radius = angle / v->iris_radius; /* 1 at the rim of the iris */
  float veins = 0.93f + 0.07f * noise(scale(d, 14), 31), corner = smooth(0.55f, 1.15f, angle);
  float fibers = 0.5f * noise((vec3){around * 9, angle * 4, 2}, 51) + 0.5f * noise((vec3){around * 22, angle * 6, 5}, 52);
  float in_iris = smooth(1.06f, 0.97f, radius), in_pupil = smooth(v->pupil + 0.05f, v->pupil - 0.03f, radius);
  for (int k = 0; k < 3; k++) {
    float white = v->sclera[k] * veins * (1 - (k ? 0.24f : 0.10f) * corner);
    float iris = mix(v->iris_inner[k], v->iris_outer[k], smooth(0.35f, 0.85f, radius)) * (0.65f + 0.8f * fibers);
    iris *= (1.15f - 0.4f * dot(d, up)) * (1 - 0.65f * smooth(0.78f, 1, radius));
    out->albedo[k] = mix(white, mix(iris, 0.008f, in_pupil), in_iris);
  }
  vec3 key = unit(vec(v->key.direction)), fill = unit(vec(v->fill.direction));
  vec3 cornea = unit(add(d, scale(gaze, radius < 1.1f ? 0.25f : 0)));
  float glint = powf(clamp01(dot(cornea, unit(add(key, p->eye)))), 220) * 3.5f * (0.35f + 0.65f * p->lit);
  glint += powf(clamp01(dot(cornea, unit(add(fill, p->eye)))), 160) * 0.5f;
  ambient(v, d.y, p->occlusion * 1.05f, out->light);
  for (int k = 0; k < 3; k++) {
    out->light[k] += v->key.color[k] * clamp01(dot(d, key) * 0.6f + 0.4f) * (0.25f + 0.75f * p->lit) * (0.4f + 0.6f * p->occlusion);
    out->light[k] += v->fill.color[k] * clamp01(dot(d, fill) * 0.6f + 0.4f) * p->occlusion;
    out->shine[k] = glint * v->key.color[k] * 0.6f;
  }
}

/* Hair after Kajiya and Kay: light by the strand's direction, two highlights. attributes: occlusion, place along the
 * strand (0 root to 1 tip), the strand's own random number, streak. */
static void shade_hair(const View *v, const Point *p, int material, Shade *out) {
  vec3 key = unit(vec(v->key.direction)), fill = unit(vec(v->fill.direction)), rim = unit(vec(v->rim.direction));
  vec3 t = unit(p->tangent), half_key = unit(add(key, p->eye)), half_rim = unit(add(rim, p->eye));
  const float *base = material == HAIR ? v->hair : material == BROW ? v->brow : v->beard;
  float own = p->attributes[2], root = material == HAIR ? mix(0.55f, 1, smooth(0, 0.35f, p->attributes[1])) : 1;
  for (int k = 0; k < 3; k++) {
    float color = material == HAIR ? mix(base[k], v->hair_streaks[k], clamp01(p->attributes[3])) : base[k];
    out->albedo[k] = color * (0.62f + 0.55f * own) * root;
  }
#define ACROSS(direction) sqrtf(fmaxf(0, 1 - dot(t, direction) * dot(t, direction)))
  float open = 0.35f + 0.65f * p->occlusion, toward_key = dot(p->normal, key), toward_rim = dot(p->normal, rim);
  ambient(v, p->normal.y, open, out->light);
  for (int k = 0; k < 3; k++) {
    out->light[k] += v->key.color[k] * (0.35f * ACROSS(key) + 0.65f) * clamp01(toward_key * 0.65f + 0.35f) * (0.18f + 0.82f * p->lit);
    out->light[k] += v->fill.color[k] * (0.4f * ACROSS(fill) + 0.6f) * clamp01(dot(p->normal, fill) * 0.6f + 0.4f) * open;
    out->light[k] += v->rim.color[k] * clamp01(toward_rim) * open * 0.8f;
  }
  if (material == BROW) return;
  vec3 shifted = unit(add(t, scale(p->normal, 0.25f)));
  float first = powf(ACROSS(half_key), 60), second = powf(sqrtf(fmaxf(0, 1 - dot(shifted, half_key) * dot(shifted, half_key))), 18);
  float edge = powf(ACROSS(half_rim), 30) * clamp01(toward_rim + 0.2f);
#undef ACROSS
  float lit = clamp01(toward_key * 0.8f + 0.3f) * p->lit, own_shine = (0.4f + 1.2f * own) * v->hair_shine * (material == BEARD ? 0.3f : 1);
  for (int k = 0; k < 3; k++) {
    out->shine[k] = own_shine * lit * (0.055f * first + 0.30f * second * out->albedo[k]) * v->key.color[k];
    out->shine[k] += own_shine * edge * 0.10f * v->rim.color[k] * (0.3f + out->albedo[k]);
  }
}

/* Everything that is a plain surface; skin lets some light through, more of the red. */
static void shade_surface(const View *v, const Point *p, int is_skin, float shine, float polish, Shade *out) {
  static const float through_skin[3] = {0.38f, 0.22f, 0.16f};
  vec3 key = unit(vec(v->key.direction)), fill = unit(vec(v->fill.direction)), rim = unit(vec(v->rim.direction)), n = p->normal;
  float toward_key = dot(n, key), toward_fill = dot(n, fill), toward_rim = dot(n, rim);
  float fresnel = powf(1 - clamp01(dot(n, p->eye)), 4);
  float from_key = powf(clamp01(dot(n, unit(add(key, p->eye)))), polish) * p->lit * clamp01(toward_key * 4);
  float from_fill = powf(clamp01(dot(n, unit(add(fill, p->eye)))), polish * 0.7f) * p->occlusion * clamp01(toward_fill * 4);
  float from_rim = powf(clamp01(dot(n, unit(add(rim, p->eye)))), polish * 0.6f) * p->occlusion * clamp01(toward_rim * 4);
  for (int k = 0; k < 3; k++) {
    float wrap = is_skin ? through_skin[k] : 0.12f;
    float lit = is_skin && !k ? powf(p->lit, 0.75f) : p->lit;
    float open = is_skin ? powf(p->occlusion, k ? 1.1f : 0.8f) : p->occlusion;
    float sky = 0.5f + 0.5f * n.y;
    out->light[k] = (v->ground[k] * (1 - sky) + v->sky[k] * sky) * open;
    out->light[k] += v->key.color[k] * clamp01((toward_key + wrap) / (1 + wrap)) * lit * (0.6f + 0.4f * p->occlusion);
    out->light[k] += v->fill.color[k] * clamp01((toward_fill + 0.35f) / 1.35f) * open + v->rim.color[k] * clamp01(toward_rim) * open;
    out->shine[k] = shine * (v->key.color[k] * from_key + 0.6f * v->fill.color[k] * from_fill + 0.8f * v->rim.color[k] * from_rim);
    out->shine[k] += (is_skin ? 0.035f : 0.025f) * fresnel * v->sky[k] * p->occlusion;
  }
}

static void shade_point(const View *v, Point *p, int *material, const float *texture, int width, int height, int pixel, Shade *out) {
  float shine = 0.02f, polish = 8;
  int is_skin = 0, m = *material;
  if (m == EYE_LEFT || m == EYE_RIGHT) { shade_eye(v, p, m == EYE_LEFT ? v->eye_left : v->eye_right, out); return; }
  if (m == HAIR || m == BROW || m == BEARD) { shade_hair(v, p, m, out); return; }
  if (m == SKIN) {
    float edge = (int)v->cloth_kind == NO_CLOTH ? -1 : below_neckline(v, p->rest);
    if (edge > 0) {
      *material = CLOTH;
      cloth_color(v, p->rest, edge, out->albedo);
    } else {
      float lip = skin_color(v, p, texture, width, height, out->albedo);
      is_skin = 1;
      shine = v->skin_shine * (1 - 0.4f * clamp01(p->attributes[2])) * (1 + 1.1f * lip * v->lip_gloss);
      shine *= (0.8f + 0.35f * noise(scale(p->rest, 30), 3)) * (0.3f + 0.7f * p->occlusion);
      polish = mix(15, 45, lip);
    }
  } else if (m == TEETH) {
    float gap = 1 - 0.22f * smooth(0.88f, 1, 0.5f + 0.5f * cosf(p->rest.x * 6.2831853f / 0.075f));
    float side = mix(0.6f, 1, smooth(0.36f, 0.12f, fabsf(p->rest.x)));
    static const float enamel[3] = {0.84f, 0.80f, 0.72f};
    for (int k = 0; k < 3; k++) out->albedo[k] = enamel[k] * gap * side;
    p->occlusion = fmaxf(p->occlusion, 0.62f);
    p->lit = 0.45f + 0.55f * p->lit;
    shine = 0.12f; polish = 40;
  } else if (m == MOUTH) {
    out->albedo[0] = 0.42f; out->albedo[1] = 0.13f; out->albedo[2] = 0.12f;
    p->occlusion *= 0.7f;
    shine = 0.1f; polish = 30;
  } else if (m == LASHES) {
    int thin = hashed((uint32_t)pixel * 2654435761u) > v->liner; /* without make-up, most of them are brown and thin */
    out->albedo[0] = thin ? 0.10f : 0.03f; out->albedo[1] = thin ? 0.06f : 0.02f; out->albedo[2] = thin ? 0.05f : 0.02f;
    p->occlusion = fmaxf(p->occlusion, 0.3f);
  } else { /* an object: its color stands in the attributes */
    float weave = m == FABRIC ? 0.8f + 0.25f * noise(scale(p->rest, 50), 19) : 1;
    for (int k = 0; k < 3; k++) out->albedo[k] = p->attributes[1 + k] * weave;
    if (m == SOLID) { shine = 0.25f; polish = 50; }
  }
  shade_surface(v, p, is_skin, shine, polish, out);
  if (m == TEETH) for (int k = 0; k < 3; k++) out->light[k] = out->light[k] * 0.75f + 0.14f;
}

/* Per pixel: albedo, light on it and shine (3 each), and the material, -1 where nothing is. Returns 0 without memory. */
int render(const View *view, int vertices, const float *position, const float *normal, const float *rest, const float *tangent,
           const float *attributes, int triangle_count, const int *triangles, const uint8_t *materials, const float *texture,
           int texture_width, int texture_height, int width, int height, int shadow_side, float *albedo, float *light, float *shine,
           int8_t *material_at) {
  size_t pixels = (size_t)width * height;
  float *screen = malloc(sizeof(float) * 4 * vertices), *depth = malloc(sizeof(float) * pixels), *weights = malloc(sizeof(float) * 2 * pixels);
  int *owner = malloc(sizeof(int) * pixels);
  uint8_t *hidden = calloc(triangle_count, 1);
  Shadow shadow = {malloc(sizeof(float) * shadow_side * shadow_side), shadow_side, {0, 7, 0.3f}};
  int enough = screen && depth && weights && owner && hidden && shadow.map;
  if (enough) {
    shadow.light = unit(vec(view->key.direction));
    shadow.across = unit(cross((vec3){0, 1, 0}, shadow.light));
    shadow.up = cross(shadow.light, shadow.across);
    shadow.scale = shadow_side / 5.2f;
    for (int i = 0; i < vertices; i++) {
      vec3 q = to_light(&shadow, vec(position + 3 * i));
      screen[4 * i] = q.x; screen[4 * i + 1] = q.y; screen[4 * i + 2] = q.z; screen[4 * i + 3] = 1;
    }
    for (int t = 0; t < triangle_count; t++) {
      int m = materials[t];
      hidden[t] = m == EYE_LEFT || m == EYE_RIGHT || m == LASHES || m == BROW;
    }
    for (int i = 0; i < shadow_side * shadow_side; i++) shadow.map[i] = 1e9f;
    raster(screen, triangle_count, triangles, hidden, shadow_side, shadow_side, shadow.map, 0, 0);

    vec3 camera = vec(view->camera);
    for (int i = 0; i < vertices; i++) {
      vec3 p = sub(vec(position + 3 * i), camera);
      float distance = fmaxf(-p.z, 0.1f);
      screen[4 * i] = view->center[0] + view->focal * p.x / distance;
      screen[4 * i + 1] = view->center[1] - view->focal * p.y / distance;
      screen[4 * i + 2] = -1 / distance;
      screen[4 * i + 3] = 1 / distance;
    }
    for (size_t i = 0; i < pixels; i++) { depth[i] = 1e9f; owner[i] = -1; }
    raster(screen, triangle_count, triangles, 0, width, height, depth, owner, weights);

    for (size_t i = 0; i < pixels; i++) {
      Shade shade = {{0}, {0}, {0}};
      int material = -1;
      if (owner[i] >= 0) {
        const int *corner = triangles + 3 * owner[i];
        float wa = weights[2 * i], wb = weights[2 * i + 1], wc = 1 - wa - wb;
#define AT(array) add(add(scale(vec(array + 3 * corner[0]), wa), scale(vec(array + 3 * corner[1]), wb)), scale(vec(array + 3 * corner[2]), wc))
        Point p = {AT(position), unit(AT(normal)), AT(rest), AT(tangent)};
#undef AT
        material = materials[owner[i]];
        for (int k = 0; k < 4; k++)
          p.attributes[k] = wa * attributes[4 * corner[0] + k] + wb * attributes[4 * corner[1] + k] + wc * attributes[4 * corner[2] + k];
        p.eye = unit(sub(camera, p.position));
        p.occlusion = clamp01(p.attributes[0]);
        int is_hair = material == HAIR || material == BROW || material == BEARD;
        if (!is_hair && material != SKIN && dot(p.normal, p.eye) < -0.15f) p.normal = scale(p.normal, -1);
        p.lit = lit_share(&shadow, add(p.position, scale(p.normal, material == HAIR ? 0.02f : 0.035f)), material == HAIR ? 0.05f : 0.03f);
        shade_point(view, &p, &material, texture, texture_width, texture_height, (int)i, &shade);
      }
      for (int k = 0; k < 3; k++) {
        albedo[3 * i + k] = shade.albedo[k]; light[3 * i + k] = shade.light[k]; shine[3 * i + k] = shade.shine[k];
      }
      material_at[i] = (int8_t)material;
    }
  }
  free(screen); free(depth); free(weights); free(owner); free(hidden); free(shadow.map);
  return enough;
}

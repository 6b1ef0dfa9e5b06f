//! The scene itself: what stands on the table, what it is painted with, and how it is lit.

use std::f64::consts::{PI, TAU};

use super::shapes::{Pane, Ray, Shape, Vec3, smoothstep};
use crate::rng::{Rng, Stream};

/// Where the sun stands (not yet of unit length), from the scene.
const SUN: Vec3 = Vec3(0.45, -0.6, 0.95);
/// Tangent of the sun's angular radius: ten times the real one, for penumbras a few pixels wide.
const SUN_SPREAD: f64 = 0.07;
const SUN_LIGHT: Vec3 = Vec3(1.75, 1.6, 1.38);
/// Light from above, from the horizon, and thrown back by the ground.
const ZENITH: Vec3 = Vec3(0.42, 0.54, 0.74);
const HORIZON: Vec3 = Vec3(0.62, 0.62, 0.62);
const GROUND: Vec3 = Vec3(0.26, 0.22, 0.18);

const TABLE_RADIUS: f64 = 1.3;
const TABLE_THICKNESS: f64 = 0.14;
/// Inside this radius the table is tiled, outside it is a wooden rim.
const TILED_RADIUS: f64 = 1.13;
/// Side of a tile: about 13 pixels of a default picture from above, which a foam of some ten thousand cells resolves.
const TILE: f64 = 0.25;

/// Optical depth of the glass for each unit of length; the pane is 0.09 thick, which takes half of the light.
const GLASS_DENSITY: f64 = 7.0;
/// The glass's own colour, display-referred.
const GLASS: Vec3 = Vec3(0.16, 0.62, 0.72);

/// What a surface looks like.
#[derive(Debug, Clone, Copy)]
enum Paint {
    Table,
    Marble,
    Stripes { dark: Vec3, light: Vec3 },
    Mottled(Vec3),
    Plain(Vec3),
    Brass,
    Lacquer(Vec3),
}

/// How a paint shines: reflectance at normal incidence, and the exponent and strength of its highlight.
struct Gloss {
    mirror: f64,
    exponent: f64,
    highlight: f64,
}

impl Paint {
    fn gloss(self) -> Gloss {
        match self {
            Self::Lacquer(_) => Gloss { mirror: 0.07, exponent: 60.0, highlight: 0.55 },
            Self::Brass => Gloss { mirror: 0.10, exponent: 24.0, highlight: 0.30 },
            Self::Stripes { .. } => Gloss { mirror: 0.03, exponent: 32.0, highlight: 0.18 },
            Self::Marble => Gloss { mirror: 0.02, exponent: 32.0, highlight: 0.12 },
            Self::Plain(_) => Gloss { mirror: 0.02, exponent: 24.0, highlight: 0.12 },
            Self::Table | Self::Mottled(_) => Gloss { mirror: 0.0, exponent: 1.0, highlight: 0.0 },
        }
    }
}

/// A sphere around something: most rays pass most things by, and this says so at once.
#[derive(Debug, Clone, Copy)]
struct Ball {
    centre: Vec3,
    radius: f64,
}

impl Ball {
    fn is_passed_by(&self, ray: &Ray) -> bool {
        let to_centre = self.centre - ray.origin;
        let off = to_centre - ray.direction * to_centre.dot(ray.direction);
        off.dot(off) > self.radius * self.radius
    }

    /// Whether all of it lies outside the cone from the ray's origin to the round sun.
    fn leaves_the_sun_alone(&self, ray: &Ray) -> bool {
        let to_centre = self.centre - ray.origin;
        let t = to_centre.dot(ray.direction);
        let off = to_centre - ray.direction * t;
        let reach = self.radius + SUN_SPREAD * (t + self.radius);
        t < -self.radius || off.dot(off) > reach * reach
    }
}

#[derive(Debug, Clone, Copy)]
struct Object {
    shape: Shape,
    paint: Paint,
    bounds: Ball,
}

impl Object {
    fn new(shape: Shape, paint: Paint) -> Self {
        let (centre, radius) = shape.bounds();
        Self { shape, paint, bounds: Ball { centre, radius } }
    }
}

/// Objects that stand close together.
#[derive(Debug)]
struct Group {
    bounds: Ball,
    objects: Vec<Object>,
}

impl Group {
    fn new(objects: Vec<Object>) -> Self {
        let count = objects.len() as f64;
        let centre = objects.iter().fold(Vec3(0.0, 0.0, 0.0), |sum, o| sum + o.bounds.centre) * (1.0 / count);
        let reach = |o: &Object| (o.bounds.centre - centre).norm() + o.bounds.radius;
        let radius = objects.iter().map(reach).fold(0.0, f64::max);
        Self { bounds: Ball { centre, radius }, objects }
    }
}

/// What one ray sees.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Display-referred colour, premultiplied by `alpha`.
    pub rgb: Vec3,
    pub alpha: f64,
    /// Which surfaces: 0 for none, different for different ones.
    pub surface: u32,
}

/// Added to the number of a surface that is seen through the glass; there are fewer objects.
const BEHIND_GLASS: u32 = 1 << 16;

/// The first opaque surface on a ray.
#[derive(Debug, Clone, Copy)]
struct Hit<'a> {
    t: f64,
    object: &'a Object,
    /// Its object's number, from 1.
    number: u32,
}

/// The scene, ready to be looked at.
#[derive(Debug)]
pub(super) struct Scene {
    groups: Vec<Group>,
    glass: Pane,
    /// Balls that keep the sky's light from their surroundings: cheap contact shadows.
    occluders: Vec<(Vec3, f64)>,
    noise: Noise,
    sun: Vec3,
}

impl Scene {
    /// The point that cameras look at.
    pub const CENTRE: Vec3 = Vec3(0.0, 0.0, 0.24);

    /// The scene whose textures come from `seed`.
    pub fn new(seed: u64) -> Self {
        let table = Shape::Drum { radius: TABLE_RADIUS, bottom: -TABLE_THICKNESS, top: 0.0 };
        let cage_centre = Vec3(0.0, 0.0, 0.47);
        let marble = Shape::Sphere { centre: cage_centre, radius: 0.26 };
        let ball = Shape::Sphere { centre: Vec3(0.76, -0.48, 0.27), radius: 0.27 };
        let axis = Vec3(0.80, 0.50, 0.28).unit();
        let (major, minor) = (0.25, 0.095);
        let ring_height = major * (1.0 - axis.2 * axis.2).sqrt() + minor;
        let ring = Shape::Torus { centre: Vec3(-0.72, -0.50, ring_height), axis, major, minor };

        let mut cage = cage(cage_centre, 0.46, 0.022);
        cage.push(Object::new(marble, Paint::Marble));
        let stripes = Paint::Stripes { dark: srgb(0x27_4b_8f), light: srgb(0xf0_ea_dc) };
        let mut groups = vec![
            Group::new(vec![Object::new(table, Paint::Table)]),
            Group::new(cage),
            Group::new(vec![Object::new(ball, Paint::Lacquer(srgb(0xc8_2a_36)))]),
            Group::new(vec![Object::new(ring, stripes)]),
            Group::new(tree(Vec3(-0.66, 0.62, 0.0))),
        ];
        groups.extend(beads(cage_centre));
        let mut occluders = vec![marble.bounds(), ball.bounds(), (ring.bounds().0, 0.22)];
        occluders.push((Vec3(-0.66, 0.62, 0.78), 0.30));
        let turn = 0.75 * PI;
        let glass =
            Pane { centre: Vec3(0.60, 0.64, 0.36), half: Vec3(0.38, 0.045, 0.36), turn: (turn.cos(), turn.sin()) };
        Self { groups, glass, occluders, noise: Noise::new(seed), sun: SUN.unit() }
    }

    /// What `ray` meets: colour and distance.
    pub fn look(&self, ray: &Ray) -> Seen {
        let nearest = self.nearest(ray);
        let behind = nearest.map_or((Vec3(0.0, 0.0, 0.0), 0.0), |hit| (self.shade(ray, hit.t, hit.object), 1.0));
        let (mut rgb, mut alpha) = behind;
        let mut surface = nearest.map_or(0, |hit| hit.number);
        if let Some((near, far)) = self.glass.span(ray) {
            let far = nearest.map_or(far, |hit| far.min(hit.t));
            if far > near {
                let taken = 1.0 - (-GLASS_DENSITY * (far - near)).exp();
                rgb = GLASS * taken + rgb * (1.0 - taken);
                alpha = taken + alpha * (1.0 - taken);
                surface += BEHIND_GLASS;
            }
        }
        Seen { rgb, alpha, surface }
    }

    /// The distance along `ray` to the first opaque surface.
    pub fn depth(&self, ray: &Ray) -> Option<f64> {
        self.nearest(ray).map(|hit| hit.t)
    }

    fn nearest(&self, ray: &Ray) -> Option<Hit<'_>> {
        let mut nearest: Option<Hit> = None;
        let mut number = 0;
        for group in &self.groups {
            if group.bounds.is_passed_by(ray) {
                number += group.objects.len() as u32;
                continue;
            }
            for object in &group.objects {
                number += 1;
                if !object.bounds.is_passed_by(ray)
                    && let Some(t) = object.shape.hit(ray)
                    && nearest.is_none_or(|best| t < best.t)
                {
                    nearest = Some(Hit { t, object, number });
                }
            }
        }
        nearest
    }

    /// The display-referred colour of `object` at distance `t` along `ray`.
    fn shade(&self, ray: &Ray, t: f64, object: &Object) -> Vec3 {
        let p = ray.at(t);
        let n = object.shape.normal(p);
        let albedo = self.albedo(p, n, object);
        let facing = n.dot(self.sun).max(0.0);
        let sun = if facing > 0.0 { SUN_LIGHT.times(self.sunlight(p, object)) } else { Vec3(0.0, 0.0, 0.0) };
        let open = self.openness(p, n, object);
        let diffuse = albedo.times(sun * facing + sky(n) * open);

        let gloss = object.paint.gloss();
        let mut rgb = diffuse;
        if gloss.highlight > 0.0 {
            let view = -ray.direction;
            let half = (view + self.sun).unit();
            let tint = if matches!(object.paint, Paint::Brass) { albedo } else { Vec3(1.0, 1.0, 1.0) };
            // Schlick's approximation: everything is a mirror at a grazing angle, but keep that mild.
            let grazing = (1.0 - n.dot(view).max(0.0)).powi(5);
            let mirror = gloss.mirror + 0.3 * gloss.mirror.sqrt() * grazing;
            let reflected = ray.direction - n * (2.0 * n.dot(ray.direction));
            rgb = rgb
                + tint.times(sky(reflected)) * (mirror * open)
                + tint.times(sun) * (gloss.highlight * n.dot(half).max(0.0).powf(gloss.exponent) * facing.min(1.0));
        }
        encode(rgb)
    }

    /// The sun's light at `p` on `object`: 1 where nothing is between, coloured behind the glass.
    fn sunlight(&self, p: Vec3, object: &Object) -> Vec3 {
        let ray = Ray { origin: p, direction: self.sun };
        let mut light = 1.0;
        for group in &self.groups {
            if group.bounds.leaves_the_sun_alone(&ray) {
                continue;
            }
            for other in &group.objects {
                // A convex shape does not shade itself beyond n.l, and its own clearance at t = 0 says nothing.
                if !std::ptr::eq(other, object) && !other.bounds.leaves_the_sun_alone(&ray) {
                    light *= 1.0 - other.shape.cover(&ray, SUN_SPREAD);
                }
            }
        }
        let white = Vec3(1.0, 1.0, 1.0) * light;
        self.glass.span(&ray).map_or(white, |(near, far)| {
            let taken = 1.0 - (-0.6 * GLASS_DENSITY * (far - near)).exp();
            white.mix(GLASS * light, taken)
        })
    }

    /// The share of the sky that `p` sees.
    fn openness(&self, p: Vec3, n: Vec3, object: &Object) -> f64 {
        let own = object.bounds.centre;
        self.occluders.iter().filter(|(centre, _)| *centre != own).fold(1.0, |open, &(centre, radius)| {
            let to = centre - p;
            let distance = to.norm().max(radius);
            let blocked = (n.dot(to) / distance).max(0.0) * (radius / distance).powi(2);
            open * (1.0 - 0.8 * blocked)
        })
    }

    /// Linear reflectance.
    fn albedo(&self, p: Vec3, n: Vec3, object: &Object) -> Vec3 {
        match object.paint {
            Paint::Plain(colour) | Paint::Lacquer(colour) => colour,
            Paint::Brass => srgb(0xd6_a8_4e),
            Paint::Mottled(colour) => colour * (0.6 + 0.8 * self.noise.cloud(p * 9.0)),
            Paint::Marble => {
                let vein = (9.0 * p.2 + 5.0 * p.0 + 7.0 * self.noise.cloud(p * 4.0)).sin().abs();
                srgb(0x4d_3a_78).mix(srgb(0xf2_ee_f6), smoothstep(0.05, 0.75, vein))
            }
            Paint::Stripes { dark, light } => {
                let Shape::Torus { centre, axis, .. } = object.shape else { return light };
                let u = axis.cross(Vec3(0.0, 0.0, 1.0)).unit();
                let q = p - centre;
                let around = q.dot(axis.cross(u)).atan2(q.dot(u));
                let flat = (q - axis * q.dot(axis)).unit();
                let through = n.dot(axis).atan2(n.dot(flat));
                dark.mix(light, smoothstep(-0.25, 0.25, (7.0 * around + 2.0 * through).sin()))
            }
            Paint::Table => {
                let radius = p.0.hypot(p.1);
                if n.2 > 0.5 && radius < TILED_RADIUS {
                    let even = ((p.0 / TILE).floor() + (p.1 / TILE).floor()).rem_euclid(2.0) < 1.0;
                    let tone = 0.82 + 0.36 * self.noise.cloud(p * 5.0 + Vec3(3.0, 1.0, 7.0));
                    srgb(if even { 0xe9_df_cb } else { 0x6d_8f_8c }) * tone
                } else {
                    // Rings of a log, seen from its end and bent a little.
                    let grain = (60.0 * radius + 6.0 * self.noise.cloud(p * 2.5) + 12.0 * p.2).sin();
                    srgb(0x6e_42_27).mix(srgb(0x9a_66_3e), 0.5 + 0.5 * grain)
                }
            }
        }
    }
}

/// The edges of an icosahedron as rods, and a knob on each corner.
fn cage(centre: Vec3, radius: f64, rod: f64) -> Vec<Object> {
    let golden = 0.5 * (1.0 + 5f64.sqrt());
    let scale = radius / 1f64.hypot(golden);
    let mut corners = Vec::with_capacity(12);
    for (one, long) in [(1.0, golden), (1.0, -golden), (-1.0, golden), (-1.0, -golden)] {
        corners.extend([Vec3(0.0, one, long), Vec3(one, long, 0.0), Vec3(long, 0.0, one)]);
    }
    let place = |v: Vec3| centre + v * scale;
    let mut objects: Vec<_> = corners
        .iter()
        .map(|&v| Object::new(Shape::Sphere { centre: place(v), radius: 1.9 * rod }, Paint::Brass))
        .collect();
    for (i, &a) in corners.iter().enumerate() {
        for &b in &corners[..i] {
            // Edges have length 2 before scaling, all other distances are larger.
            if (a - b).norm() < 2.1 {
                let shape = Shape::Capsule { a: place(a), b: place(b), radius: rod };
                objects.push(Object::new(shape, Paint::Brass));
            }
        }
    }
    objects
}

/// A small tree: a trunk, branches, and a ball of leaves at the end of each.
fn tree(foot: Vec3) -> Vec<Object> {
    let bark = Paint::Mottled(srgb(0x7a_55_3a));
    let limb = |a: Vec3, b: Vec3, radius| Object::new(Shape::Capsule { a, b, radius }, bark);
    let fork = foot + Vec3(0.02, 0.0, 0.40);
    let mut objects = vec![limb(foot, fork, 0.048)];
    let crowns = [
        (Vec3(0.0, 0.02, 0.50), 0.18, 0x5f_9a_3c),
        (Vec3(0.20, 0.02, 0.36), 0.14, 0x7c_b0_42),
        (Vec3(-0.12, 0.18, 0.34), 0.15, 0x4c_8a_45),
        (Vec3(-0.14, -0.16, 0.30), 0.14, 0x8a_b9_4a),
    ];
    for (offset, radius, colour) in crowns {
        let centre = fork + offset;
        objects.push(limb(fork, centre, 0.026));
        objects.push(Object::new(Shape::Sphere { centre, radius }, Paint::Mottled(srgb(colour))));
    }
    objects
}

/// A tilted ring of beads around the cage, in all colours; in arcs, so that a bounding sphere is of use.
fn beads(centre: Vec3) -> Vec<Group> {
    const ARCS: usize = 6;
    const BEADS_IN_ARC: usize = 4;
    const RADIUS: f64 = 0.60;
    const TILT: f64 = 0.35;
    let bead = |i: usize| {
        let turn = i as f64 / (ARCS * BEADS_IN_ARC) as f64;
        let (sin, cos) = (TAU * turn).sin_cos();
        let centre = centre + Vec3(RADIUS * cos * TILT.cos(), RADIUS * sin, RADIUS * cos * TILT.sin());
        let wave = |shift: f64| 0.32 + 0.28 * (TAU * (turn + shift)).cos();
        let paint = Paint::Plain(Vec3(wave(0.0), wave(-1.0 / 3.0), wave(1.0 / 3.0)));
        Object::new(Shape::Sphere { centre, radius: 0.042 }, paint)
    };
    let arc = |a: usize| Group::new((0..BEADS_IN_ARC).map(|b| bead(a * BEADS_IN_ARC + b)).collect());
    (0..ARCS).map(arc).collect()
}

/// The light that comes from direction `d`, averaged over the lobe of a rough surface.
fn sky(d: Vec3) -> Vec3 {
    if d.2 > 0.0 {
        HORIZON.mix(ZENITH, smoothstep(0.0, 0.8, d.2))
    } else {
        HORIZON.mix(GROUND, smoothstep(0.0, 0.5, -d.2))
    }
}

/// Linear light to display-referred values, with a shoulder so that highlights do not clip.
fn encode(linear: Vec3) -> Vec3 {
    let channel = |x: f64| {
        let x = 1.0 - (-1.25 * x).exp();
        if x <= 0.003_130_8 { 12.92 * x } else { 1.055 * x.powf(1.0 / 2.4) - 0.055 }
    };
    Vec3(channel(linear.0), channel(linear.1), channel(linear.2))
}

/// An sRGB colour, 0xRRGGBB, as linear light.
fn srgb(hex: u32) -> Vec3 {
    let channel = |shift: u32| {
        let x = f64::from((hex >> shift) & 0xff) / 255.0;
        if x <= 0.040_45 { x / 12.92 } else { ((x + 0.055) / 1.055).powf(2.4) }
    };
    Vec3(channel(16), channel(8), channel(0))
}

/// Value noise: random numbers on a periodic lattice, joined smoothly.
#[derive(Debug)]
struct Noise {
    lattice: Vec<f32>,
}

impl Noise {
    /// Points along one side of the lattice; a power of two, so that the period is a mask.
    const SIDE: usize = 16;

    fn new(seed: u64) -> Self {
        let rng = Rng::new(seed, Stream::Synthetic, 0);
        Self { lattice: (0..Self::SIDE.pow(3) as u32).map(|i| rng.uniform(i)).collect() }
    }

    /// Two octaves, in `[0, 1]`; the finer one is half as strong.
    fn cloud(&self, p: Vec3) -> f64 {
        (2.0 * self.value(p) + self.value(p * 2.03 + Vec3(5.2, 1.3, 8.4))) / 3.0
    }

    fn value(&self, p: Vec3) -> f64 {
        let axis = |x: f64| {
            let cell = x.floor();
            let wrapped = (cell as i64).rem_euclid(Self::SIDE as i64) as usize;
            (wrapped, (wrapped + 1) & (Self::SIDE - 1), smoothstep(0.0, 1.0, x - cell))
        };
        let ((x0, x1, fx), (y0, y1, fy), (z0, z1, fz)) = (axis(p.0), axis(p.1), axis(p.2));
        let at = |x: usize, y: usize, z: usize| f64::from(self.lattice[(z * Self::SIDE + y) * Self::SIDE + x]);
        let mix = |a: f64, b: f64, t: f64| a + (b - a) * t;
        let row = |y, z| mix(at(x0, y, z), at(x1, y, z), fx);
        mix(mix(row(y0, z0), row(y1, z0), fy), mix(row(y0, z1), row(y1, z1), fy), fz)
    }
}

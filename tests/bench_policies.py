"""The least that rows can cost, and what rules attain, on the loopback server's models: without a server.

Two models with pass rates Beta(a, b), joined by a Gaussian copula; at most CAP samples of each to a prompt.
`goal_cost`, `batch_cost`, `rows_within`, `hard_rows_within`: exact dynamic programming with a known prior. `Game` plays
a rule on the server's draws, and fits the prior as it goes."""
import sys
from collections import Counter, deque
from functools import cached_property, lru_cache
from math import comb, prod
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from loopback import draw, joint_rate

CHEAP, STRONG = (.6, 1.2), (1.2, .6)
NAMES, ARMS, RHO, CAP, COST = ('cheap', 'strong'), (CHEAP, STRONG), .7, 32, np.array([1., 10.])

@lru_cache(8)
def draws(n, seed=0):
    "Whether the k-th choice is right: [model, prompt, k], as the server has it."
    def rights(name, ab, prompt):
        rate = joint_rate(prompt, name, *ab, seed, RHO)
        return [draw(prompt, k, seed, rate, name) for k in range(CAP)]
    return np.array([[rights(*model, f'prompt {i}') for i in range(n)] for model in zip(NAMES, ARMS)])

# ---- two models, one row to a prompt

class Belief:
    "What is known of a prompt that both models have failed so often, under a known prior."
    def __init__(self, arms=ARMS, rho=RHO, size=801):
        from scipy.special import betaincinv
        from scipy.stats import norm
        x = np.linspace(-7, 7, size)
        weight = norm.pdf(x)/norm.pdf(x).sum()
        z = np.sqrt(rho)*x[:, None]+np.sqrt(1-rho)*x
        fails = [betaincinv(b, a, norm.sf(z)) for a, b in arms]   # 1-p, exact near 0; by shared and own difficulty
        powers = [np.array([(q**f)@weight for f in range(CAP+2)]) for q in fails]
        self.joint = np.einsum('it,jt,t->ij', *powers, weight)    # the chance to see so many failures of each

    @cached_property
    def rate(self):
        "The chance that a model's next sample passes: [model, failures of the first, of the second]."
        j = self.joint
        return np.array([1-j[1:, :-1]/j[:-1, :-1], 1-j[:-1, 1:]/j[:-1, :-1]])

def one_by_one(belief, value):
    "Which model to ask after so many failures, -1: none, if a row is worth `value` dollars."
    gain, act = np.zeros((CAP+2, CAP+2)), np.full((CAP+1, CAP+1), -1)
    for i in range(CAP, -1, -1):
        for j in range(CAP, -1, -1):
            for arm, after, allowed in (0, gain[i+1, j], i<CAP), (1, gain[i, j+1], j<CAP):
                p = belief.rate[arm, i, j]
                g = p*value+(1-p)*after-COST[arm]
                if allowed and g>gain[i, j]:
                    gain[i, j], act[i, j] = g, arm
    return act

def follow(belief, act):
    "(share of prompts with a row, dollars a prompt) of such a rule."
    reach, done, usd = np.zeros((CAP+2, CAP+2)), 0., 0.
    reach[0, 0] = 1
    for i in range(CAP+1):
        for j in range(CAP+1):
            arm = act[i, j]
            if arm<0:
                continue
            p = belief.rate[arm, i, j]
            usd += reach[i, j]*COST[arm]
            done += reach[i, j]*p
            reach[i+(arm==0), j+(arm==1)] += reach[i, j]*(1-p)
    return done, usd

def at_share(goal, outcome, low=.1, high=1e6):
    "Dollars a row where exactly `goal` of the prompts have one; `outcome`: value of a row -> (share, dollars)."
    for _ in range(50):
        mid = (low*high)**.5
        low, high = (mid, high) if outcome(mid)[0]<goal else (low, mid)
    (s0, c0), (s1, c1) = outcome(low), outcome(high)
    return (c0+(goal-s0)/(s1-s0)*(c1-c0))/goal

def goal_cost(belief, goal):
    "Dollars a row of the best way to a goal, one sample at a time."
    return at_share(goal, lambda value: follow(belief, one_by_one(belief, value)))

def alone_cost(belief, arm, goal):
    "Dollars a row of one model alone that asks the prompts with the fewest failures first, until the goal."
    left = belief.joint[:CAP+1, 0] if arm==0 else belief.joint[0, :CAP+1]
    used = 0.
    for k in range(CAP):
        if 1-left[k+1]>=goal:
            return (used+left[k]*(goal-1+left[k])/(left[k]-left[k+1]))*COST[arm]/goal
        used += left[k]

def fixed_cost(n=16):
    "Dollars a row of `n` samples of the strong model to each prompt."
    a, b = STRONG
    return n*COST[1]/(1-prod((b+i)/(a+b+i) for i in range(n)))

# ---- in rounds: a batch may ask both models, several times

def rounds_rule(belief, value, rounds, price=.5, most=(12, 6)):
    "Per round, the samples (of the first, of the second model) after so many failures, if a row is worth `value`."
    j, (c0, c1) = belief.joint[:CAP+1, :CAP+1], price*COST
    gain, rules = np.zeros((CAP+1, CAP+1)), []
    for _ in range(rounds):
        best, act = np.zeros_like(gain), np.zeros((CAP+1, CAP+1, 2), int)
        for m, n in ((m, n) for m in range(most[0]+1) for n in range(most[1]+1) if m or n):
            miss = j[m:, n:]/j[:CAP+1-m, :CAP+1-n]
            g = (1-miss)*value+miss*gain[m:, n:]-m*c0-n*c1
            view = best[:CAP+1-m, :CAP+1-n]
            better = g>view
            view[better] = g[better]
            act[:CAP+1-m, :CAP+1-n][better] = m, n
        gain = best
        rules.append(act)
    return rules[::-1]

def follow_rounds(belief, rules, price=.5):
    "(share of prompts with a row, dollars a prompt) of such rules."
    reach, done, usd = {(0, 0): 1.}, 0., 0.
    for act in rules:
        after = Counter()
        for (i, j), w in reach.items():
            m, n = act[i, j]
            miss = belief.joint[i+m, j+n]/belief.joint[i, j]
            usd += w*price*(m*COST[0]+n*COST[1])
            done += w*(1-miss)
            if m or n:
                after[i+m, j+n] += w*miss
        reach = after
    return done, usd

def batch_cost(belief, goal, rounds, price=.5):
    "Dollars a row of the best way to a goal in so many rounds."
    return at_share(goal, lambda value: follow_rounds(belief, rounds_rule(belief, value, rounds, price), price))

def rounds_alone(belief, arm, rounds):
    "Samples of one model until each prompt has a row or CAP samples, in so many rounds at best, for one in turn."
    left = (belief.joint[:CAP+1, 0] if arm==0 else belief.joint[0, :CAP+1])[:CAP+1]
    best = np.full(CAP+1, np.inf)
    best[CAP] = 0
    for _ in range(rounds):
        best = np.array([min([m*left[k]+best[k+m] for m in range(1, CAP-k+1)], default=0.) for k in range(CAP+1)])
    return best[0]/left[:CAP].sum()

# ---- one model, a fixed number of samples on average

NEEDS = dict(sft=lambda s, f: s>=1, dpo=lambda s, f: s>=1 and f>=1, multi_sft=lambda s, f: s>=4)

def rule_within(ab, done, price):
    "In which (passes, fails) to go on, if a sample costs `price` rows."
    (a, b), gain, go = ab, np.zeros((CAP+2, CAP+2)), np.zeros((CAP+2, CAP+2), bool)
    for t in range(CAP-1, -1, -1):
        for s in range(t+1):
            f, p = t-s, (a+s)/(a+b+t)
            g = p*(done(s+1, f) or gain[s+1, f])+(1-p)*(done(s, f+1) or gain[s, f+1])-price
            if g>0 and not done(s, f):
                gain[s, f], go[s, f] = g, True
    return go

def follow_within(ab, done, go):
    "(samples a prompt, rows a prompt) of such a rule."
    (a, b), reach, rows, used = ab, np.zeros((CAP+2, CAP+2)), 0., 0.
    reach[0, 0] = 1
    for t in range(CAP):
        for s in range(t+1):
            f, w, p = t-s, reach[s, t-s]*go[s, t-s], (a+s)/(a+b+t)
            used += w
            for share, to in (p, (s+1, f)), (1-p, (s, f+1)):
                if done(*to):
                    rows += w*share
                else:
                    reach[to] += w*share
    return used, rows

def at_samples(samples, outcome, low=1e-7, high=1.):
    "Rows a prompt with so many samples a prompt; `outcome`: price of a sample in rows -> (samples, rows, …)."
    for _ in range(50):
        mid = (low*high)**.5
        low, high = (mid, high) if outcome(mid)[0]>samples else (low, mid)
    (n0, *_, r0), (n1, *_, r1) = outcome(high), outcome(low)
    return r0+(samples-n0)/(n1-n0)*(r1-r0) if n1>n0 else r0

def rows_within(ab, done, samples):
    "The most rows a prompt that so many samples a prompt bring."
    return at_samples(samples, lambda price: follow_within(ab, done, rule_within(ab, done, price)))

def rows_in_order(ab, done, samples, step=4):
    "Rows a prompt if the first prompts get `step` samples each, until they are used up."
    a, b = ab
    def seen(k):
        over = prod(a+i for i in range(k))*prod(b+i for i in range(step-k))
        return comb(step, k)*over/prod(a+b+i for i in range(step))
    return samples/step*sum(seen(k) for k in range(step+1) if done(k, step-k))

def hardness(ab):
    "(pass rate below which a prompt is among the hardest fifth, function of (passes, fails): the chance that it is)."
    from scipy.stats import beta
    edge = beta.ppf(.2, *ab)
    return edge, lambda s, f: beta.cdf(edge, ab[0]+s, ab[1]+f)

def hard_rows_within(ab, samples):
    "The most SFT rows of the hardest fifth, a prompt, that so many samples a prompt bring."
    (a, b), hard = ab, hardness(ab)[1]
    p, h = [a/(a+b+f) for f in range(CAP)], [hard(1, f) for f in range(CAP)]
    def outcome(price):
        gain, go = 0., []
        for f in range(CAP-1, -1, -1):
            gain = max(0., p[f]*h[f]+(1-p[f])*gain-price)
            go.append(gain>0)
        alive, used, rows = 1., 0., 0.
        for f, on in enumerate(go[::-1]):
            alive *= on
            used, rows, alive = used+alive, rows+alive*p[f]*h[f], alive*(1-p[f])
        return used, rows
    return at_samples(samples, outcome)

def hard_rows_in_order(ab, samples, step=4):
    "SFT rows of the hardest fifth, a prompt, if the first prompts get `step` samples each."
    from scipy.integrate import quad
    from scipy.stats import beta
    return samples/step*quad(lambda p: (1-(1-p)**step)*beta.pdf(p, *ab), 0, hardness(ab)[0])[0]

# ---- rules on the server's draws

class Game:
    "SFT with two models to a goal: the sample with the most expected rows per dollar is next, one at a time."
    def __init__(self, n, start, refit=True, pilot=16, after=8, seed=0):
        self.right, self.d, self.refits = draws(n, seed), start, refit
        self.pilot, self.after = pilot, after       # prompts of so many failures that the strong model is tried on
        self.idle, self.passed = {(0, 0): deque(range(n))}, Counter()
        self.used, self.fit_at, self.index = [0, 0], [8, 8], {}

    def value(self, fails):
        "(rows per dollar, model) of the best sample of a prompt with these failures."
        means = [a/(a+b) for a, b in self.d.posterior(tuple((0, f) for f in fails))]
        return max((mean/cost, i) for i, (mean, cost, f) in enumerate(zip(means, COST, fails)) if f<CAP)

    def choose(self):
        "(failures of the prompt, model) of the next sample."
        open_ = [c for c, waiting in self.idle.items() if waiting and min(c)<CAP]
        failed = [c for c in open_ if c[0]>=self.after and not c[1]]
        if self.refits and failed and self.used[1]<self.pilot:
            return min(failed), 1
        for c in open_:
            if c not in self.index:
                self.index[c] = self.value(c)
        best = max(open_, key=self.index.get)
        return best, self.index[best][1]

    def refit(self):
        from rsr.data.difficulty import fit_difficulty
        cells = self.passed+Counter({tuple((0, f) for f in c): len(q) for c, q in self.idle.items() if any(c)})
        self.d, self.index = fit_difficulty(cells, self.d), {}
        self.fit_at = [max(8, int(1.25*n)+1) for n in self.used]

    def play(self, goal):
        "Dollars a row."
        rows = 0
        while rows<goal:
            fails, arm = self.choose()
            i = self.idle[fails].popleft()
            self.used[arm] += 1
            seen = tuple((0, f) for f in fails)
            if self.right[arm, i, fails[arm]]:
                rows += 1
                self.passed[tuple((int(j==arm), f) for j, (_, f) in enumerate(seen))] += 1
            else:
                self.idle.setdefault(tuple(f+(j==arm) for j, f in enumerate(fails)), deque()).append(i)
            if self.refits and any(n>=at for n, at in zip(self.used, self.fit_at)):
                self.refit()
        return float(np.dot(self.used, COST))/rows

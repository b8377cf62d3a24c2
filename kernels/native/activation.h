/* What stands between an expert's first and second product, in float32. NaN stays NaN. */

/* exp(x) to float32's last bits but one or two: 2^n times a polynomial; beyond what a float can hold, its ends. */
INLINE floats exponential(floats x) {
    x = most(all_of(-87.0f), least(all_of(87.0f), x));
    const floats n = nearest(mul(x, all_of(1.44269504f)));
    floats r = multiply_add(n, all_of(-0.693359375f), x);
    r = multiply_add(n, all_of(2.12194440e-4f), r);
    floats p = all_of(1.0f / 5040);
    p = multiply_add(p, r, all_of(1.0f / 720));
    p = multiply_add(p, r, all_of(1.0f / 120));
    p = multiply_add(p, r, all_of(1.0f / 24));
    p = multiply_add(p, r, all_of(1.0f / 6));
    p = multiply_add(p, r, all_of(0.5f));
    p = multiply_add(p, r, all_of(1.0f));
    p = multiply_add(p, r, all_of(1.0f));
    return mul(p, power_of_two(n));
}

/* a / (1 + exp(-b)) */
INLINE floats times_sigmoid(floats a, floats b) {
    return divide(a, add(all_of(1.0f), exponential(sub(zeros(), b))));
}

INLINE floats activated(const int activation, floats gate, floats up, float alpha, float limit) {
    switch (activation) {
        case FOLKMOOT_SWIGLU: return mul(times_sigmoid(gate, gate), up);
        case FOLKMOOT_GEGLU_TANH: {
            /* (1 + tanh z) / 2 = sigmoid(2z), z = sqrt(2 / pi) (gate + 0.044715 gate^3) */
            const floats inner = multiply_add(mul(mul(gate, gate), gate), all_of(0.044715f), gate);
            return mul(times_sigmoid(gate, mul(inner, all_of(1.59576912f))), up);
        }
        case FOLKMOOT_CLAMPED_SWIGLU: {
            gate = least(all_of(limit), gate);
            up = most(all_of(-limit), least(all_of(limit), up));
            return mul(times_sigmoid(gate, mul(gate, all_of(alpha))), add(up, all_of(1.0f)));
        }
        default: {
            up = most(zeros(), up);
            return mul(up, up);
        }
    }
}

INLINE void activate_all(const int activation, const folkmoot_form *form, const float *gate, const float *up, float *inner,
                         int64_t size) {
    const int gated = activation != FOLKMOOT_RELU_SQUARED;
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        const floats g = gated ? load_floats(gate + i) : zeros();
        store_floats(inner + i, activated(activation, g, load_floats(up + i), form->alpha, form->limit));
    }
    if (i < size) {
        float few[2][LANES] = {{0}};
        if (gated) memcpy(few[0], gate + i, (size_t)(size - i) * sizeof(float));
        memcpy(few[1], up + i, (size_t)(size - i) * sizeof(float));
        store_floats(few[0], activated(activation, load_floats(few[0]), load_floats(few[1]), form->alpha, form->limit));
        memcpy(inner + i, few[0], (size_t)(size - i) * sizeof(float));
    }
}

static void activate(const folkmoot_form *form, const float *gate, const float *up, float *inner, int64_t size) {
    switch (form->activation) {
        case FOLKMOOT_SWIGLU: activate_all(FOLKMOOT_SWIGLU, form, gate, up, inner, size); break;
        case FOLKMOOT_GEGLU_TANH: activate_all(FOLKMOOT_GEGLU_TANH, form, gate, up, inner, size); break;
        case FOLKMOOT_CLAMPED_SWIGLU: activate_all(FOLKMOOT_CLAMPED_SWIGLU, form, gate, up, inner, size); break;
        default: activate_all(FOLKMOOT_RELU_SQUARED, form, gate, up, inner, size);
    }
}

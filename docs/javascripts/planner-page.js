// What every part of the planner's page uses: the form, its words and the package's constants.

import { fill } from "./numbers.js";

export const constants = JSON.parse(document.getElementById("planner-constants").textContent);
export const form = document.getElementById("planner");
export const fields = form.elements;
export const pageWords = form.dataset; // the page's own, in its language
export const element = (id) => document.getElementById(`planner-${id}`);
export const say = (key, values = {}) => fill(constants.words[`plan.${key}`], values);

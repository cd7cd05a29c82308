/* What ipywidgets leaves undone, run in the browser when the picture is there: JupyterLab takes arrow keys and letters
   even from a list that has the focus, unless that says no, and a slider's handle has no name for screen readers. The
   controls may appear a little later than the picture. */
const picture = this; setTimeout(() => {
  for (const one of picture.closest('.widget-vbox')?.querySelectorAll('select, input, button, [tabindex]') ?? []) {
    one.setAttribute('data-lm-suppress-shortcuts', 'true');
    const label = one.closest('.widget-slider')?.querySelector('label');
    if (label) one.setAttribute('aria-label', label.textContent);
  }
  for (const one of picture.closest('.widget-vbox')?.querySelectorAll('.widget-radio') ?? []) {
    one.setAttribute('role', 'radiogroup');
    one.setAttribute('aria-label', one.querySelector('label').textContent);
    // radio buttons without a name are no group: each is a stop of Tab, and arrow keys do nothing
    const group = `choice${Math.random()}`;
    for (const choice of one.querySelectorAll('input')) choice.name ||= group;
  }
}, 300)
